"""Copies that rearrange: every element's place is the sum of two table entries, on both sides."""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from flexgroup.kernels.emit import I64, Kernel, Signature
from flexgroup.kernels.moves import Move, move_name
from flexgroup.kernels.target import F32, Element, Target

SIGNATURE = Signature(
    (
        "source",  # the region that the source offsets count from
        "target",
        "from_rows",  # int32 a row: bytes
        "from_columns",  # int32 a column: bytes
        "to_rows",
        "to_columns",
        "columns",
        "first",  # rows
        "last",
    )
)

UNROLL = 4


@dataclass(frozen=True)
class GatherKernel:
    """``target[to_rows[i] + to_columns[j]] = source[from_rows[i] + from_columns[j]]`` for the rows first..last."""

    element: Element = F32
    written: Element | None = None  # how the target holds the numbers, if not as the source does

    @property
    def name(self) -> str:
        return f"gather_{move_name(self.element, self.written)}"

    @property
    def signature(self) -> Signature:
        return SIGNATURE

    def emit(self, module: ir.Module, target: Target) -> None:
        """Add the kernel's function to ``module``."""
        k = Kernel(module, self.name, target, self.element, SIGNATURE)
        b, move = k.builder, Move(k, self.written)
        source, into = k.address("source"), k.address("target")
        names = ("from_rows", "from_columns", "to_rows", "to_columns")
        from_rows, from_columns, to_rows, to_columns = (k.address(name) for name in names)
        columns = k.arg("columns")
        whole = b.and_(columns, ir.Constant(I64, -UNROLL))
        with k.loop(k.arg("first"), k.arg("last")) as rows:
            read = k.at(source, k.load_index(from_rows, rows.index))
            write = k.at(into, k.load_index(to_rows, rows.index))
            for start, stop, step in ((ir.Constant(I64, 0), whole, UNROLL), (whole, columns, 1)):
                with k.loop(start, stop, step) as each:
                    places = [b.add(each.index, ir.Constant(I64, i)) for i in range(step)]
                    values = [move.load(read, 1, move.read_size, k.load_index(from_columns, at)) for at in places]
                    for at, value in zip(places, values, strict=True):
                        move.store(value, write, move.written_size, k.load_index(to_columns, at))
        b.ret_void()
