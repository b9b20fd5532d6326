"""Sums, products, clamps, curves and per-channel scales that no convolution could absorb."""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from flexgroup.kernels.curves import emit_curve
from flexgroup.kernels.emit import I64, Kernel, Signature
from flexgroup.kernels.target import F32, Element, Target

SIGNATURE = Signature(
    (
        "first_inputs",  # int32 a plane: bytes from the arena's start
        "second_inputs",  # likewise, for forms with two operands
        "outputs",
        "scale",  # "affine": a number a plane; "scale": a number a position
        "shift",
        "mask",
        "arena",
        "vectors",  # a plane
        "first",
        "last",
        "low",
        "high",
    )
)

_TWO_OPERANDS = ("add", "mul", "add_each", "mul_each")


@dataclass(frozen=True)
class ElementwiseKernel:
    """``curve(clamp(f(x)))`` over whole planes, zero on the border.

    ``form`` is "add" (x + y), "mul" (x * y), "add_each" and "mul_each" (where y is one number a plane: a gate),
    "affine" (scale[plane] * x + shift[plane]) or "scale" (scale[position] * x + shift[position], for vectors, which
    are one plane).
    """

    form: str
    element: Element = F32
    curve: str = ""

    @property
    def name(self) -> str:
        curve = f"_{self.curve}" if self.curve else ""
        return f"elementwise_{self.element.name}_{self.form}{curve}"

    @property
    def signature(self) -> Signature:
        return SIGNATURE

    def emit(self, module: ir.Module, target: Target) -> None:
        """Add the kernel's function to ``module``."""
        k = Kernel(module, self.name, target, self.element, SIGNATURE)
        b = k.builder
        arena, mask, scale, shift = (k.address(name) for name in ("arena", "mask", "scale", "shift"))
        tables = [k.address(name) for name in ("first_inputs", "second_inputs", "outputs")]
        low, high = k.splat(k.scalar("low")), k.splat(k.scalar("high"))
        vectors, width = k.arg("vectors"), k.width
        with k.loop(k.arg("first"), k.arg("last")) as planes:
            x, y, out = (k.at(arena, k.load_index(table, planes.index)) for table in tables)
            if self.form == "affine":
                plane = b.mul(planes.index, ir.Constant(I64, k.size))
                factor = k.load_splat(scale, plane)
                offset = k.load_splat(shift, plane)
            if self.form.endswith("_each"):
                each = k.load_splat(y)
            with k.loop(0, vectors) as positions:
                at = b.mul(positions.index, ir.Constant(I64, width))
                value = k.load_vector(x, width, at)
                if self.form in _TWO_OPERANDS:
                    combine = b.fmul if self.form.startswith("mul") else b.fadd
                    value = combine(value, each if self.form.endswith("_each") else k.load_vector(y, width, at))
                else:
                    if self.form == "scale":
                        factor, offset = k.load_vector(scale, width, at), k.load_vector(shift, width, at)
                    value = k.fma(factor, value, offset)
                value = emit_curve(k, self.curve, k.clamp(value, low, high))
                k.write(value, out, width, at, k.load(mask, k.mask, width, at))
        b.ret_void()
