"""The machine's peak rate of multiply-adds: what every other kernel is measured against."""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from flexgroup.kernels.emit import Kernel, Signature
from flexgroup.kernels.target import F32, Element, Target

SIGNATURE = Signature(("rounds", "arena"))

UNROLL = 4


@dataclass(frozen=True)
class PeakKernel:
    """Independent multiply-adds on registers only; the arena takes the result, so that nothing is optimised away."""

    accumulators: int
    element: Element = F32

    @property
    def name(self) -> str:
        return f"peak_{self.element.name}_{self.accumulators}"

    @property
    def signature(self) -> Signature:
        return SIGNATURE

    @classmethod
    def for_target(cls, target: Target) -> PeakKernel:
        """As many accumulators as hide the latency and still fit the registers."""
        return cls(12 if target.vector_registers < 32 else 20)

    def macs(self, rounds: int, target: Target) -> int:
        """Multiply-accumulates of one call."""
        return rounds * UNROLL * self.accumulators * target.lanes(self.element)

    def emit(self, module: ir.Module, target: Target) -> None:
        """Add the kernel's function to ``module``."""
        k = Kernel(module, self.name, target, self.element, SIGNATURE)
        b, width = k.builder, target.vector_bytes
        arena = k.address("arena")
        # Loaded, not constant, and zero: the sums stay zero, so no round is slowed by denormals or infinities.
        first, second = (k.load(arena, k.vector, self.element.bytes, i * width) for i in range(2))
        start = [k.load(arena, k.vector, self.element.bytes, i * width) for i in range(self.accumulators)]
        with k.loop(0, k.arg("rounds"), 1, start) as rounds:
            sums = list(rounds.values)
            for _ in range(UNROLL):
                sums = [k.fma(first, second, value) for value in sums]
            rounds.next = sums
        total = rounds.results[0]
        for value in rounds.results[1:]:
            total = b.fadd(total, value)
        k.store(total, arena, self.element.bytes)
        b.ret_void()
