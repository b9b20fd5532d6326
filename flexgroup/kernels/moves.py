"""Numbers that are only moved: bit by bit, or converted where they are stored differently on the two sides."""

from __future__ import annotations

from llvmlite import ir

from flexgroup.kernels.emit import Kernel
from flexgroup.kernels.target import Element


def move_name(read: Element, written: Element | None) -> str:
    """How a kernel that reads one element and writes another is called: "f32", "f32_to_f16"."""
    return read.name if written is None else f"{read.name}_to_{written.name}"


class Move:
    """Loads and stores of a kernel that reads numbers as its element says, and writes them as ``written`` says."""

    def __init__(self, kernel: Kernel, written: Element | None) -> None:
        self._k = kernel
        self._read = kernel.element
        self._written = written or kernel.element
        self.read_size, self.written_size = self._read.bytes, self._written.bytes

    def load(
        self,
        pointer: ir.Value,
        width: int,
        align: int,
        byte_offset: ir.Value | int = 0,
        lanes: ir.Value | None = None,
    ) -> ir.Value:
        """``width`` numbers, or those for which the mask ``lanes`` is true and zeros, as bits.

        `store` takes them after any rearrangement.
        """
        k, b = self._k, self._k.builder
        is_same = self.read_size == self.written_size
        kind = _bits(self._read, width) if is_same else _typed(self._read.ir, width)
        if lanes is None:
            value = k.load(pointer, kind, align, byte_offset)
        else:
            value = k.load_lanes(lanes, pointer, kind, align, byte_offset)
        if is_same:
            return value
        convert = b.fptrunc if self.read_size > self.written_size else b.fpext
        value = convert(value, _typed(self._written.ir, width))
        bits = _bits(self._written, width)
        return value if value.type == bits else b.bitcast(value, bits)

    def store(
        self,
        value: ir.Value,
        pointer: ir.Value,
        align: int,
        byte_offset: ir.Value | int = 0,
        lanes: ir.Value | None = None,
    ) -> None:
        """Store numbers, or those for which the mask ``lanes`` is true."""
        if lanes is None:
            self._k.store(value, pointer, align, byte_offset)
        else:
            self._k.store_lanes(lanes, value, pointer, align, byte_offset)

    def store_zero(self, pointer: ir.Value, byte_offset: ir.Value | int = 0) -> None:
        """Store one number that is zero."""
        self._k.store(ir.Constant(_bits(self._written, 1), 0), pointer, self.written_size, byte_offset)


def _bits(element: Element, width: int) -> ir.Type:
    """Numbers of 32 bits move as they are; halves as integers, which every target can shuffle."""
    return _typed(element.ir if element.bytes == 4 else ir.IntType(8 * element.bytes), width)


def _typed(kind: ir.Type, width: int) -> ir.Type:
    return kind if width == 1 else ir.VectorType(kind, width)
