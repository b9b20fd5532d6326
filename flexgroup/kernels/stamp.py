"""A kernel that runs another one and notes when that began and ended: how single calls are timed on every thread."""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from flexgroup.kernels.emit import I32, I64, POINTER, Kernel, Signature
from flexgroup.kernels.target import F32, Target

SIGNATURE = Signature(
    (
        "kernel",  # its address
        "arguments",  # the address of its argument fields
        "clock",  # int clock_gettime(int, struct timespec*)
        "clock_id",  # which clock: its number differs between systems
        "ticks",  # i64[4]: (seconds, nanoseconds) before and after
    )
)

_KERNEL = ir.FunctionType(ir.VoidType(), [POINTER.as_pointer(), I64.as_pointer()])
_CLOCK = ir.FunctionType(I32, [I32, POINTER])


@dataclass(frozen=True)
class StampKernel:
    """Calls ``kernel`` with the same memory regions and with ``arguments``, between two looks at the clock."""

    @property
    def name(self) -> str:
        return "stamp"

    @property
    def signature(self) -> Signature:
        return SIGNATURE

    def emit(self, module: ir.Module, target: Target) -> None:
        """Add the kernel's function to ``module``."""
        k = Kernel(module, self.name, target, F32, SIGNATURE)
        b = k.builder
        clock, ticks, number = k.pointer("clock", _CLOCK), k.pointer("ticks"), b.trunc(k.arg("clock_id"), I32)
        b.call(clock, [number, ticks])
        b.call(k.pointer("kernel", _KERNEL), [k.function.args[0], k.pointer("arguments", I64)])
        b.call(clock, [number, k.at(ticks, 16)])
        b.ret_void()
