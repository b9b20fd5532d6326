"""PyTorch, eager and compiled."""

from __future__ import annotations

from typing import Any

from _peers._engine import Call, Engine, Files
from _peers._module import channels_last, module_of


class TorchEager(Engine):
    key = "torch"
    name = "PyTorch eager"
    distributions = ("torch",)
    options = "inference_mode, channels_last"

    def load(self, files: Files, threads: int) -> Call:
        import torch

        torch.set_num_threads(threads)
        model = channels_last(module_of(files))
        x = torch.from_numpy(files.example()).contiguous(memory_format=torch.channels_last)

        def call() -> torch.Tensor:
            with torch.inference_mode():
                return model(x)  # type: ignore[no-any-return]

        return call


class TorchCompile(Engine):
    key = "torch-compile"
    name = "torch.compile"
    distributions = ("torch",)
    options = "inference_mode, channels_last, inductor with freezing=True, dynamic=False"

    def load(self, files: Files, threads: int) -> Call:
        import torch
        import torch._inductor.config

        torch.set_num_threads(threads)
        torch._inductor.config.freezing = True  # folds batch norms and packs weights once
        torch._dynamo.config.recompile_limit = 64  # the networks of a session share their classes' code
        model = channels_last(module_of(files))
        x = torch.from_numpy(files.example()).contiguous(memory_format=torch.channels_last)
        compiled: Any = torch.compile(model, dynamic=False)

        def call() -> torch.Tensor:
            with torch.inference_mode():
                return compiled(x)  # type: ignore[no-any-return]

        return call
