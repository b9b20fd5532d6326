"""LiteRT (TensorFlow Lite), whose CPU delegate is XNNPACK."""

from __future__ import annotations

from _peers._engine import Call, Engine, Environment, Files
from _peers._module import module_of


class LiteRt(Engine):
    key = "litert"
    name = "LiteRT (XNNPACK)"
    environment = Environment("litert", (("torch==2.13.0", "litert-torch==0.10.0", "ai-edge-litert==2.3.0"),))
    distributions = ("ai-edge-litert", "litert-torch")
    options = "converted by litert-torch with a channel-last input; XNNPACK delegate (the default)"

    def convert(self, files: Files) -> None:
        import litert_torch
        import torch

        x = torch.from_numpy(files.example()).permute(0, 2, 3, 1).contiguous()
        model = litert_torch.to_channel_last_io(module_of(files), args=[0]).eval()
        litert_torch.convert(model, (x,)).export(str(files.own / "model.tflite"))

    def load(self, files: Files, threads: int) -> Call:
        import numpy as np
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(str(files.own / "model.tflite"), num_threads=threads)
        interpreter.allocate_tensors()
        (given,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
        x = np.ascontiguousarray(files.example().transpose(0, 2, 3, 1))

        def call() -> object:
            interpreter.set_tensor(given["index"], x)
            interpreter.invoke()
            return interpreter.get_tensor(result["index"])

        return call
