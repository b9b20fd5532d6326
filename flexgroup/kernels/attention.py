"""Attention of a tile of queries to all keys, without storing what has the size of queries times keys.

For one head and one tile of queries (positions, side by side in lanes) the scores of all keys go to scratch memory, one
row of vectors a key; their softmax is taken across the rows, lane by lane; then the values are summed with these
weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from flexgroup.kernels.curves import emit_exp
from flexgroup.kernels.emit import I64, Kernel, Signature
from flexgroup.kernels.product import overlapping, plain_entries, table_at, transposed_entries, weighted_sums
from flexgroup.kernels.target import F32, Element, Target

SIGNATURE = Signature(
    (
        "queries",  # int32 a plane: bytes from the arena's start; heads after one another
        "keys",
        "values",
        "outputs",
        "mask",  # an integer of a number's size a position of a query: -1 inside the output, 0 on its border
        "scores_mask",  # 32 bits a head, key and position of a query: added to the scores, where the kernel has it
        "head_mask",  # bytes in it from a head to the next
        "key_mask",  # bytes in it from a key to the next
        "by_key",  # a number a key: added to the scores, where the kernel has it
        "arena",
        "scratch",
        "key_count",  # at least as many as the kernel's rows
        "query_planes",  # of one head
        "value_planes",  # likewise; at least as many as the kernel's rows
        "tiles",  # of one plane of queries
        "last_start",  # vector at which the last tile starts
        "first",  # tiles of heads, head by head
        "last",
        "scale",
    )
)

SCORE_BYTES = 4  # of a number in scratch memory, and in the mask of scores
LARGEST_TILE = 4  # vectors of queries at a time, which scratch memory has room for


@dataclass(frozen=True)
class AttentionKernel:
    """``rows`` keys (then planes of values) by ``tile`` vectors of queries.

    ``masked`` adds a number to every score, ``by_key`` one to all scores of a key.
    """

    rows: int
    tile: int
    masked: bool
    by_key: bool
    element: Element = F32

    @property
    def name(self) -> str:
        endings = ("_masked" if self.masked else "") + ("_by_key" if self.by_key else "")
        return f"attention_{self.element.name}_{self.rows}x1_t{self.tile}{endings}"

    @property
    def signature(self) -> Signature:
        return SIGNATURE

    def emit(self, module: ir.Module, target: Target) -> None:
        """Add the kernel's function to ``module``."""
        k = Kernel(module, self.name, target, self.element, SIGNATURE, wide=True)
        _Emitter(k, self).emit()


class _Emitter:
    def __init__(self, kernel: Kernel, spec: AttentionKernel) -> None:
        self.k = kernel
        self.spec = spec
        self.width = kernel.width
        self.score = kernel.lanes * SCORE_BYTES  # a vector of scores
        self.tables = {name: kernel.address(name) for name in ("queries", "keys", "values", "outputs")}
        self.mask, self.arena, self.scratch = (kernel.address(name) for name in ("mask", "arena", "scratch"))
        self.key_count, self.value_planes = kernel.arg("key_count"), kernel.arg("value_planes")
        self.query_planes = kernel.arg("query_planes")
        self.key_mask, self.by_key = kernel.arg("key_mask"), kernel.address("by_key")
        self.scale = kernel.splat(kernel.scalar("scale"))

    def emit(self) -> None:
        k = self.k
        b = k.builder
        tiles, last_start = k.arg("tiles"), k.arg("last_start")
        scores_mask = k.address("scores_mask") if self.spec.masked else None
        with k.loop(k.arg("first"), k.arg("last")) as items:
            head, tile = b.udiv(items.index, tiles), b.urem(items.index, tiles)
            start = b.mul(tile, ir.Constant(I64, self.spec.tile))
            start = b.select(b.icmp_signed("<", start, last_start), start, last_start)
            self.tile = b.mul(start, ir.Constant(I64, self.width))
            self.here = k.at(self.arena, self.tile)
            counts = {"queries": self.query_planes, "keys": self.query_planes}
            self.head = {
                name: table_at(k, table, b.mul(head, counts.get(name, self.value_planes)))
                for name, table in self.tables.items()
            }
            if scores_mask is not None:
                column = b.mul(start, ir.Constant(I64, self.score))
                self.head_mask = k.at(k.at(scores_mask, b.mul(head, k.arg("head_mask"))), column)
            self._weigh(self._softmax(self._scores()))
        b.ret_void()

    def _row(self, key: ir.Value) -> Any:
        """The scratch memory of one key."""
        return self.k.at(self.scratch, self.k.builder.mul(key, ir.Constant(I64, self.spec.tile * self.score)))

    def _vectors(self, table: ir.Value) -> Callable[[ir.Value], list[ir.Value]]:
        k = self.k

        def load(index: ir.Value) -> list[ir.Value]:
            plane = k.at(self.here, k.load_index(table, index))
            return [k.load_vector(plane, self.width, t * self.width) for t in range(self.spec.tile)]

        return load

    def _scores(self) -> list[ir.Value]:
        """Scratch row j becomes the scores of key j; returns their maxima."""
        k, rows, tile = self.k, self.spec.rows, self.spec.tile
        b = k.builder
        lowest = k.constant(float("-inf"))
        with k.loop(0, self.key_count, rows, [lowest] * tile) as strips:
            first = overlapping(k, strips.index, self.key_count, rows)
            read = transposed_entries(k, self.arena, self.head["keys"], first, rows)
            sums = weighted_sums(k, read, self._vectors(self.head["queries"]), self.query_planes, rows, tile)
            maxima = list(strips.values)
            for i in range(rows):
                key = b.add(first, ir.Constant(I64, i))
                out = self._row(key)
                if self.spec.by_key:
                    number = k.load_entry(self.by_key, b.mul(key, ir.Constant(I64, k.size)))
                for t in range(tile):
                    score = b.fmul(sums[i * tile + t], self.scale)
                    if self.spec.masked:
                        added = k.at(self.head_mask, b.mul(key, self.key_mask))
                        score = b.fadd(score, k.load(added, k.vector, self.width, t * self.score))
                    if self.spec.by_key:
                        score = b.fadd(score, k.splat_entry(number))
                    k.store(score, out, self.width, t * self.score)
                    maxima[t] = b.select(b.fcmp_ordered(">", score, maxima[t]), score, maxima[t])
            strips.next = maxima
        return strips.results

    def _softmax(self, maxima: list[ir.Value]) -> list[ir.Value]:
        """Scratch rows become exponentials; returns what the sums over them have to be multiplied by."""
        k, tile = self.k, self.spec.tile
        b = k.builder
        zero = k.constant(0.0)
        with k.loop(0, self.key_count, 1, [zero] * tile) as keys:
            row = self._row(keys.index)
            totals = []
            for t in range(tile):
                score = k.load(row, k.vector, self.width, t * self.score)
                weight = emit_exp(k, b.fsub(score, maxima[t]))
                k.store(weight, row, self.width, t * self.score)
                totals.append(b.fadd(keys.values[t], weight))
            keys.next = totals
        one = k.constant(1.0)
        return [b.fdiv(one, total) for total in keys.results]

    def _weigh(self, factors: list[ir.Value]) -> None:
        """Sums of values, weighted by the scratch rows, to the output planes."""
        k, rows, tile = self.k, self.spec.rows, self.spec.tile
        b = k.builder

        def weights(key: ir.Value) -> list[ir.Value]:
            row = self._row(key)
            return [k.load(row, k.vector, self.width, t * self.score) for t in range(tile)]

        with k.loop(0, self.value_planes, rows) as strips:
            first = overlapping(k, strips.index, self.value_planes, rows)
            read = plain_entries(k, self.arena, self.head["values"], first, rows)
            sums = weighted_sums(k, read, weights, self.key_count, rows, tile)
            for i in range(rows):
                row = b.add(first, ir.Constant(I64, i))
                out = k.at(self.here, k.load_index(self.head["outputs"], row))
                for t in range(tile):
                    value = b.fmul(sums[i * tile + t], factors[t])
                    inside = k.load(k.at(self.mask, self.tile), k.mask, self.width, t * self.width)
                    k.write(value, out, self.width, t * self.width, inside)
