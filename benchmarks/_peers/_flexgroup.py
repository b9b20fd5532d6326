"""Our own engine."""

from __future__ import annotations

from _peers._engine import Call, Engine, Files
from _peers._module import module_of, sparsity_of


class Flexgroup(Engine):
    key = "flexgroup"
    name = "flexgroup"
    distributions = ("flexgroup", "llvmlite")
    sparse = True
    unaligned = True
    options = "dense networks with sparse=False"

    def load(self, files: Files, threads: int) -> Call:
        import torch

        import flexgroup

        x = files.example()
        model = module_of(files)
        fast = flexgroup.compile(model, (torch.from_numpy(x),), threads=threads, sparse=sparsity_of(files) > 0)
        return lambda: fast(x)
