"""ExecuTorch with its XNNPACK back end."""

from __future__ import annotations

from _peers._engine import Call, Engine, Environment, Files
from _peers._module import module_of


class ExecuTorch(Engine):
    key = "executorch"
    name = "ExecuTorch (XNNPACK)"
    environment = Environment(
        "executorch",
        (
            ("torch==2.13.0", "numpy", "safetensors", "flatbuffers", "ruamel.yaml", "tabulate"),
            ("--no-deps", "executorch==1.5.1", "torchao==0.18.0"),
        ),
    )
    distributions = ("executorch",)
    options = "XNNPACK partitioner"

    def convert(self, files: Files) -> None:
        import torch
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        x = torch.from_numpy(files.example())
        model = module_of(files)
        exported = torch.export.export(model, (x,))
        program = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()]).to_executorch()
        (files.own / "model.pte").write_bytes(program.buffer)

    def load(self, files: Files, threads: int) -> Call:
        import torch
        from executorch.extension.pybindings import portable_lib

        portable_lib._unsafe_reset_threadpool(threads)
        module = portable_lib._load_for_executorch(str(files.own / "model.pte"))
        x = torch.from_numpy(files.example())
        return lambda: module.forward((x,))[0]
