"""Zeros for the rows above and below an image, where only a band of it is in memory."""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from flexgroup.kernels.emit import I64, Kernel, Signature
from flexgroup.kernels.target import F32, Element, Target

SIGNATURE = Signature(
    (
        "targets",  # int32 a plane: bytes from `target`
        "target",
        "vectors",  # to clear in every plane
        "first",  # planes
        "last",
    )
)


@dataclass(frozen=True)
class FillKernel:
    """Clears the first ``vectors`` vectors of every plane."""

    element: Element = F32

    @property
    def name(self) -> str:
        return f"fill_{self.element.name}"

    @property
    def signature(self) -> Signature:
        return SIGNATURE

    def emit(self, module: ir.Module, target: Target) -> None:
        """Add the kernel's function to ``module``."""
        k = Kernel(module, self.name, target, self.element, SIGNATURE)
        b = k.builder
        targets, into, vectors = k.address("targets"), k.address("target"), k.arg("vectors")
        zero = ir.Constant(ir.VectorType(k.element.ir, k.lanes), [0.0] * k.lanes)
        with k.loop(k.arg("first"), k.arg("last")) as planes:
            plane = k.at(into, k.load_index(targets, planes.index))
            with k.loop(0, vectors) as positions:
                at = b.mul(positions.index, ir.Constant(I64, k.width))
                k.store(zero, plane, self.element.bytes, at)
        b.ret_void()
