"""Whole vectors of every plane from one place to another: rows that a thread sees of its neighbours."""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from flexgroup.kernels.emit import Kernel, Signature
from flexgroup.kernels.target import F32, Element, Target

SIGNATURE = Signature(
    (
        "source",  # the region that the source offsets count from
        "target",
        "sources",  # int32 a plane: bytes to the first of its vectors
        "targets",
        "first",  # planes
        "last",
    )
)

ABREAST = 4  # vectors that are read before the first of them is written


@dataclass(frozen=True)
class HaloKernel:
    """Copies ``vectors`` vectors of every plane: few, or its code would be long."""

    vectors: int
    element: Element = F32

    @property
    def name(self) -> str:
        return f"halo_{self.element.name}_{self.vectors}v"

    @property
    def signature(self) -> Signature:
        return SIGNATURE

    def emit(self, module: ir.Module, target: Target) -> None:
        """Add the kernel's function to ``module``."""
        k = Kernel(module, self.name, target, self.element, SIGNATURE)
        b = k.builder
        source, into = k.address("source"), k.address("target")
        sources, targets = k.address("sources"), k.address("targets")
        with k.loop(k.arg("first"), k.arg("last")) as planes:
            read = k.at(source, k.load_index(sources, planes.index))
            write = k.at(into, k.load_index(targets, planes.index))
            kind = ir.VectorType(k.element.ir, k.lanes)
            for first in range(0, self.vectors, ABREAST):
                starts = [number * k.width for number in range(first, min(first + ABREAST, self.vectors))]
                values = [k.load(read, kind, self.element.bytes, start) for start in starts]
                for value, start in zip(values, starts, strict=True):
                    k.store(value, write, self.element.bytes, start)
        b.ret_void()
