"""Pools over windows of positions, and the mean of whole planes."""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from flexgroup.kernels.emit import I64, Kernel, Signature
from flexgroup.kernels.target import F32, Element, Target

POOL_SIGNATURE = Signature(
    (
        "taps",  # int32 a plane and tap: bytes from `source` to the tap's first position
        "outputs",  # int32 a plane: bytes from `target`
        "inside",  # max: an integer of a number's size a tap and position, 0 where the tap falls on padding
        "inside_tap",  # bytes from a tap's entries in `inside` to the next tap's
        "scale",  # mean: a number a position, 1 / (entries that count)
        "mask",
        "source",
        "target",
        "tap_count",
        "vectors",  # blocks of a plane
        "last_start",  # bytes to the last block, which overlaps the one before where blocks do not divide
        "first",
        "last",
    )
)


@dataclass(frozen=True)
class PoolKernel:
    """``form`` "max" or "mean" over a window of taps around every position."""

    form: str
    element: Element = F32

    @property
    def name(self) -> str:
        return f"pool_{self.element.name}_{self.form}"

    @property
    def signature(self) -> Signature:
        return POOL_SIGNATURE

    def emit(self, module: ir.Module, target: Target) -> None:
        """Add the kernel's function to ``module``."""
        k = Kernel(module, self.name, target, self.element, POOL_SIGNATURE, wide=self.form == "mean")
        b, width, size = k.builder, k.width, k.size
        names = ("taps", "outputs", "inside", "scale", "mask", "source", "target")
        taps, outputs, inside, scale, mask, source, into = (k.address(name) for name in names)
        tap_count, vectors, last_start = k.arg("tap_count"), k.arg("vectors"), k.arg("last_start")
        inside_tap = k.arg("inside_tap")
        lowest = k.constant(float("-inf"))
        start = lowest if self.form == "max" else k.constant(0.0)
        with k.loop(k.arg("first"), k.arg("last")) as planes:
            out = k.at(into, k.load_index(outputs, planes.index))
            first_tap = b.mul(planes.index, tap_count)
            with k.loop(0, vectors) as positions:
                at = b.mul(positions.index, ir.Constant(I64, width))
                at = b.select(b.icmp_signed("<", at, last_start), at, last_start)
                with k.loop(0, tap_count, 1, [start]) as window:
                    plane = k.at(source, k.load_index(taps, b.add(first_tap, window.index)))
                    value, best = k.load_vector(plane, size, at), window.values[0]
                    if self.form == "max":
                        row = k.at(inside, b.mul(window.index, inside_tap))
                        here = b.icmp_signed("!=", k.load(row, k.mask, size, at), ir.Constant(k.mask, [0] * k.lanes))
                        value = b.select(here, value, lowest)
                        window.next = [k.larger(value, best)]
                    else:
                        window.next = [b.fadd(best, value)]
                value = window.results[0]
                if self.form == "mean":
                    value = b.fmul(value, k.load_vector(scale, size, at))
                # A mask, not a scale of zero: infinity times zero is not zero.
                k.write(value, out, size, at, k.load(mask, k.mask, size, at))
        b.ret_void()


MEAN_SIGNATURE = Signature(
    (
        "inputs",  # int32 a plane
        "mask",  # an integer of a number's size a position: -1 inside the image, 0 on its border
        "arena",
        "output",  # a number a plane
        "vectors",
        "first",
        "last",
        "scale",
    )
)


@dataclass(frozen=True)
class MeanKernel:
    """The sum of a plane's pixels times ``scale``, as one number of a vector."""

    element: Element = F32

    @property
    def name(self) -> str:
        return f"mean_{self.element.name}"

    @property
    def signature(self) -> Signature:
        return MEAN_SIGNATURE

    def emit(self, module: ir.Module, target: Target) -> None:
        """Add the kernel's function to ``module``."""
        k = Kernel(module, self.name, target, self.element, MEAN_SIGNATURE, wide=True)
        b, width, size = k.builder, k.width, k.size
        inputs, mask, arena, output = (k.address(name) for name in ("inputs", "mask", "arena", "output"))
        scale, vectors = k.scalar("scale"), k.arg("vectors")
        with k.loop(k.arg("first"), k.arg("last")) as planes:
            plane = k.at(arena, k.load_index(inputs, planes.index))
            with k.loop(0, vectors, 1, [k.constant(0.0)]) as positions:
                at = b.mul(positions.index, ir.Constant(I64, width))
                stored = k.load(plane, ir.VectorType(k.element.ir, k.lanes), width, at)
                value = k.computed(k.zeroed(stored, k.load(mask, k.mask, width, at)))
                positions.next = [b.fadd(positions.values[0], value)]
            total = k.sum_of_lanes(positions.results[0])
            at = b.mul(planes.index, ir.Constant(I64, size))
            k.write(b.fmul(total, scale), output, size, at)
        b.ret_void()
