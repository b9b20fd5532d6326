"""How fast a core reads memory: what kernels that multiply little are measured against."""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from flexgroup.kernels.emit import I64, Kernel, Signature
from flexgroup.kernels.target import F32, Element, Target

SIGNATURE = Signature(("rounds", "source", "vectors", "sink"))


@dataclass(frozen=True)
class BandwidthKernel:
    """Reads the ``vectors`` (a multiple of ``unroll``) at ``source``, ``rounds`` times.

    ``sink`` takes the exclusive or of their bits, so that nothing is optimised away; memory may hold anything.
    """

    unroll: int = 16
    element: Element = F32

    @property
    def name(self) -> str:
        return f"bandwidth_{self.unroll}"

    @property
    def signature(self) -> Signature:
        return SIGNATURE

    def emit(self, module: ir.Module, target: Target) -> None:
        """Add the kernel's function to ``module``."""
        k = Kernel(module, self.name, target, self.element, SIGNATURE)
        b, width = k.builder, target.vector_bytes
        source, vectors = k.address("source"), k.arg("vectors")
        bits = ir.VectorType(I64, width // 8)
        chains = min(self.unroll, target.vector_registers // 2)
        start = [ir.Constant(bits, None)] * chains
        with k.loop(0, k.arg("rounds"), 1, start) as rounds:
            with k.loop(0, vectors, self.unroll, rounds.values) as reads:
                line = k.at(source, b.mul(reads.index, ir.Constant(I64, width)))
                sums = list(reads.values)
                for i in range(self.unroll):
                    sums[i % chains] = b.xor(sums[i % chains], k.load(line, bits, width, i * width))
                reads.next = sums
            rounds.next = reads.results
        total = rounds.results[0]
        for value in rounds.results[1:]:
            total = b.xor(total, value)
        k.store(total, k.address("sink"), 8)
        b.ret_void()
