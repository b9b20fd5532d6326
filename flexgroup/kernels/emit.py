"""Small helpers for writing LLVM IR: loops, vectors, typed access to kernel arguments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from llvmlite import ir

from flexgroup.kernels.target import Element, Target

BIT, I8, I32, I64 = ir.IntType(1), ir.IntType(8), ir.IntType(32), ir.IntType(64)
POINTER = I8.as_pointer()
STACK = 16  # bytes that platforms align the stack to
AHEAD = 4096  # bytes from what is read of a stream to what is asked for: memory takes a few hundred cycles

BASE_SHIFT = 40  # a reference is (base << BASE_SHIFT) | byte offset


@dataclass(frozen=True)
class Signature:
    """The arguments of a kernel: names of 64-bit fields, in order. Floats are stored in the low 32 bits."""

    fields: tuple[str, ...]

    def pack(self, values: dict[str, int]) -> list[int]:
        """The fields' values in order; missing or unknown names raise `KeyError`."""
        if set(values) != set(self.fields):
            raise KeyError(f"fields {sorted(set(values) ^ set(self.fields))} do not fit {self.fields}")
        return [values[name] for name in self.fields]


class Code:
    """A function under construction whose numbers come from an array of 64-bit fields, its argument ``fields``."""

    def __init__(
        self,
        module: ir.Module,
        name: str,
        target: Target,
        signature: Signature,
        arguments: Sequence[ir.Type],
        fields: int = 0,
    ) -> None:
        self.function = ir.Function(module, ir.FunctionType(ir.VoidType(), arguments), name)
        self.function.attributes.add("nounwind")
        self.builder: Any = ir.IRBuilder(self.function.append_basic_block("entry"))
        self.target = target
        self._signature = signature
        self._args = self.function.args[fields]

    def field(self, name: str) -> ir.Value:
        """The address of the argument field ``name``."""
        return self.builder.gep(self._args, [ir.Constant(I64, self._signature.fields.index(name))])

    def arg(self, name: str) -> ir.Value:
        """The 64-bit argument field ``name``."""
        return self.builder.load(self.field(name), name=name)

    def pointer(self, name: str, kind: ir.Type = I8) -> ir.Value:
        """The argument field ``name`` as the address of a ``kind``."""
        b = self.builder
        return b.load(b.bitcast(self.field(name), kind.as_pointer().as_pointer()), name=name)

    def call(self, name: str, result: ir.Type, operands: Sequence[ir.Value]) -> ir.Value:
        """Call an intrinsic function of LLVM; it is declared when it is first called."""
        module, kind = self.function.module, ir.FunctionType(result, [operand.type for operand in operands])
        return self.builder.call(module.globals.get(name) or ir.Function(module, kind, name), operands)

    @contextmanager
    def loop(
        self, start: ir.Value | int, stop: ir.Value | int, step: ir.Value | int = 1, carried: Sequence[ir.Value] = ()
    ) -> Iterator[Loop]:
        """``for index in range(start, stop, step)``; yields the index and the values carried around the loop.

        Set ``loop.next`` to the values that the next round starts with; after the block they are ``loop.results``.
        The test stands at the bottom, with a guard before the loop, so that a round costs one branch.
        """
        b = self.builder
        start = ir.Constant(I64, start) if isinstance(start, int) else start
        stop = ir.Constant(I64, stop) if isinstance(stop, int) else stop
        step = ir.Constant(I64, step) if isinstance(step, int) else step
        before = b.block
        body = b.append_basic_block("body")
        done = b.append_basic_block("done")
        b.cbranch(b.icmp_signed("<", start, stop), body, done)
        b.position_at_end(body)
        index = b.phi(I64)
        index.add_incoming(start, before)
        phis = [b.phi(value.type) for value in carried]
        loop = Loop(index, list(phis), list(phis))
        yield loop
        following = b.add(index, step)
        index.add_incoming(following, b.block)
        for phi, first, value in zip(phis, carried, loop.next, strict=True):
            phi.add_incoming(first, before)
            phi.add_incoming(value, b.block)
        last = b.block
        b.cbranch(b.icmp_signed("<", following, stop), body, done)
        b.position_at_end(done)
        for first, value in zip(carried, loop.next, strict=True):
            result = b.phi(value.type)
            result.add_incoming(first, before)
            result.add_incoming(value, last)
            loop.results.append(result)


def _scope(module: ir.Module) -> ir.MDValue:
    """A list of one of LLVM's alias scopes: loads in it are changed by no store that names it."""
    domain = module.add_metadata(["flexgroup"])
    return module.add_metadata([module.add_metadata(["loads", domain])])


def halved(lanes: int) -> list[int]:
    """Vector widths from whole vectors down to single numbers, for what a wider one leaves over."""
    widths = [lanes]
    while widths[-1] > 4:
        widths.append(widths[-1] // 2)
    return [*widths, 1]


class Kernel(Code):
    """One kernel function under construction: ``void name(i8** bases, i64* args)``.

    ``bases`` holds the addresses of the memory regions (constants, arena, inputs, outputs); a field that refers to
    memory is a region's index and a byte offset in one number.

    Numbers are stored as ``element`` says. They are multiplied and added as it says too, or, in a ``wide`` kernel,
    in 32 bits: for long sums. `load_vector`, `load_splat` and `write` convert where the two differ.

    ``apart``: nothing that the kernel stores changes what it loads, so that loads may be arranged ahead of stores.
    """

    def __init__(
        self,
        module: ir.Module,
        name: str,
        target: Target,
        element: Element,
        signature: Signature,
        *,
        wide: bool = False,
        apart: bool = False,
    ) -> None:
        super().__init__(module, name, target, signature, [POINTER.as_pointer(), I64.as_pointer()], fields=1)
        if target.vector_bytes > STACK:  # else vectors that no register is left for lie across cache lines
            self.function.attributes.alignstack = target.vector_bytes
        self.element = element
        self.lanes = target.lanes(element)
        self.number = ir.FloatType() if wide else element.computed
        self.vector = ir.VectorType(self.number, self.lanes)
        self.size = element.bytes  # of a number in memory
        self.width = self.lanes * element.bytes  # of a vector in memory
        self.mask = ir.VectorType(ir.IntType(8 * element.bytes), self.lanes)
        self._bases = self.function.args[0]
        self._apart = _scope(module) if apart and target.in_order else None

    def scalar(self, name: str) -> ir.Value:
        """The argument field ``name`` as a number that can be computed with."""
        b = self.builder
        value = b.bitcast(b.trunc(self.arg(name), I32), ir.FloatType())
        return value if self.number == value.type else b.fptrunc(value, self.number)

    def constant(self, value: float) -> ir.Constant:
        """``value`` in every lane."""
        return ir.Constant(self.vector, [value] * self.lanes)

    def load_vector(self, pointer: ir.Value, align: int, byte_offset: ir.Value | int = 0, count: int = 0) -> ir.Value:
        """The vector at an address, or the ``count`` numbers, to compute with."""
        lanes = count or self.lanes
        return self.computed(self.load(pointer, ir.VectorType(self.element.ir, lanes), align, byte_offset))

    def picked(self, lanes: Sequence[int], first: ir.Value, second: ir.Value | None = None) -> ir.Value:
        """These lanes of a vector, or of two, the second's counted after the first's."""
        other = ir.Constant(first.type, ir.Undefined) if second is None else second
        return self.builder.shuffle_vector(first, other, ir.Constant(ir.VectorType(I32, len(lanes)), list(lanes)))

    def halves(self, value: ir.Value) -> list[ir.Value]:
        """The first half of a vector's lanes, and the second."""
        half = value.type.count // 2
        return [self.picked(range(at, at + half), value) for at in (0, half)]

    def load_splat(self, pointer: ir.Value, byte_offset: ir.Value | int = 0, count: int = 0) -> ir.Value:
        """The number at an address in every lane of a vector, or of one with ``count`` lanes."""
        return self.splat_entry(self.load_entry(pointer, byte_offset), count)

    def load_entry(self, pointer: ir.Value, byte_offset: ir.Value | int = 0) -> ir.Value:
        """The number at an address, for `splat_entry`."""
        kind = self.number if self.element.ir == self.number else self.mask.element
        return self.load(pointer, kind, self.size, byte_offset)

    def splat_entry(self, entry: ir.Value, count: int = 0) -> ir.Value:
        """What `load_entry` gave, to compute with, in every lane of a vector, or of one with ``count`` lanes."""
        lanes = count or self.lanes
        if entry.type == self.number:
            return self.spread(entry, lanes)
        # Spread first: one instruction loads and spreads, and one converts all lanes.
        stored = self.builder.bitcast(self.spread(entry, lanes), ir.VectorType(self.element.ir, lanes))
        return self._extended(stored, ir.VectorType(self.number, lanes))

    def write(
        self,
        value: ir.Value,
        pointer: ir.Value,
        align: int,
        byte_offset: ir.Value | int = 0,
        inside: ir.Value | None = None,
    ) -> None:
        """Store ``value``, a number or a vector, as `stored` makes it."""
        self.store(self.stored(value, inside), pointer, align, byte_offset)

    def write_first(self, value: ir.Value, pointer: ir.Value, count: int) -> None:
        """Store the first ``count`` lanes of the vector ``value``, and nothing else: as two pieces that may overlap."""
        value = self.stored(value)
        width = 1 << count.bit_length() - 1
        for start in dict.fromkeys((0, count - width)):
            self.store(self.picked(range(start, start + width), value), pointer, self.size, start * self.size)

    def stored(self, value: ir.Value, inside: ir.Value | None = None) -> ir.Value:
        """``value``, rounded to what memory holds, and `zeroed` outside of ``inside``."""
        b = self.builder
        is_vector = isinstance(value.type, ir.VectorType)
        kind = ir.VectorType(self.element.ir, value.type.count) if is_vector else self.element.ir
        value = value if value.type == kind else b.fptrunc(value, kind)
        return value if inside is None else self.zeroed(value, inside)

    def zeroed(self, value: ir.Value, inside: ir.Value) -> ir.Value:
        """A vector as memory holds it, and zero where the mask ``inside`` is: integers, or truths."""
        b = self.builder
        if inside.type.element == BIT:
            return b.select(inside, value, ir.Constant(value.type, None))
        return b.bitcast(b.and_(b.bitcast(value, inside.type), inside), value.type)

    def computed(self, stored: ir.Value) -> ir.Value:
        """A vector as memory holds it, to compute with."""
        return self._extended(stored, ir.VectorType(self.number, stored.type.count))

    def _extended(self, value: ir.Value, kind: ir.Type) -> ir.Value:
        return value if value.type == kind else self.builder.fpext(value, kind)

    def address(self, name: str) -> ir.Value:
        """The address that field ``name`` refers to, as ``i8*``."""
        b = self.builder
        reference = self.arg(name)
        base = b.load(b.gep(self._bases, [b.lshr(reference, ir.Constant(I64, BASE_SHIFT))]))
        offset = b.and_(reference, ir.Constant(I64, (1 << BASE_SHIFT) - 1))
        return b.gep(base, [offset])

    def at(self, pointer: ir.Value, byte_offset: ir.Value | int) -> ir.Value:
        """``pointer`` (any type) advanced by bytes, as ``i8*``."""
        b = self.builder
        if isinstance(byte_offset, int):
            byte_offset = ir.Constant(I64, byte_offset)
        return b.gep(b.bitcast(pointer, POINTER), [byte_offset])

    def load(self, pointer: ir.Value, kind: ir.Type, align: int, byte_offset: ir.Value | int = 0) -> ir.Value:
        address = self.builder.bitcast(self.at(pointer, byte_offset), kind.as_pointer())
        value = self.builder.load(address, align=align)
        if self._apart is not None:
            value.set_metadata("alias.scope", self._apart)
        return value

    def store(self, value: ir.Value, pointer: ir.Value, align: int, byte_offset: ir.Value | int = 0) -> None:
        address = self.builder.bitcast(self.at(pointer, byte_offset), value.type.as_pointer())
        stored = self.builder.store(value, address, align=align)
        if self._apart is not None:
            stored.set_metadata("noalias", self._apart)

    def first_lanes(self, count: ir.Value, lanes: int) -> ir.Value:
        """A mask of the first ``count`` of so many lanes: none for a negative number."""
        numbers = ir.Constant(ir.VectorType(I32, lanes), list(range(lanes)))
        return self.builder.icmp_signed("<", numbers, self.spread(self.builder.trunc(count, I32), lanes))

    def load_lanes(
        self, lanes: ir.Value, pointer: ir.Value, kind: ir.Type, align: int, byte_offset: ir.Value | int = 0
    ) -> ir.Value:
        """The vector at an address, for targets that have masks: zeros, and nothing read, where ``lanes`` is false."""
        address = self.at(pointer, byte_offset)
        name = f"llvm.masked.load.v{kind.count}{_type_name(kind.element)}.p0"
        return self.call(name, kind, [address, ir.Constant(I32, align), lanes, ir.Constant(kind, None)])

    def store_lanes(
        self, lanes: ir.Value, value: ir.Value, pointer: ir.Value, align: int, byte_offset: ir.Value | int = 0
    ) -> None:
        """Store those lanes of a vector for which ``lanes`` is true, for targets that have masks."""
        name = f"llvm.masked.store.v{value.type.count}{_type_name(value.type.element)}.p0"
        self.call(name, ir.VoidType(), [value, self.at(pointer, byte_offset), ir.Constant(I32, align), lanes])

    def prefetch(self, pointer: ir.Value, byte_offset: ir.Value | int = 0) -> None:
        """Ask for a cache line, so that it is near when it is read. It may not exist."""
        read, near, data = (ir.Constant(I32, value) for value in (0, 3, 1))
        self.call("llvm.prefetch.p0", ir.VoidType(), [self.at(pointer, byte_offset), read, near, data])

    def load_index(self, table: ir.Value, index: ir.Value) -> ir.Value:
        """Entry ``index`` of a table of 32-bit integers, widened to 64 bits."""
        b = self.builder
        entry = b.load(b.gep(b.bitcast(table, I32.as_pointer()), [index]))
        return b.sext(entry, I64)

    def splat(self, value: ir.Value) -> ir.Value:
        """``value`` in every lane."""
        return self.spread(value, self.lanes)

    def spread(self, value: ir.Value, lanes: int) -> ir.Value:
        """``value`` in every lane of a vector of so many."""
        b = self.builder
        undefined = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
        first = b.insert_element(undefined, value, ir.Constant(I32, 0))
        zeros = ir.Constant(ir.VectorType(I32, lanes), [0] * lanes)
        return b.shuffle_vector(first, undefined, zeros)

    def sum_of_lanes(self, vector: ir.Value) -> ir.Value:
        """The sum of all lanes, by halves."""
        b, lanes = self.builder, vector.type.count
        while lanes > 1:
            half = lanes // 2
            undefined = ir.Constant(vector.type, ir.Undefined)
            masks = [ir.Constant(ir.VectorType(I32, half), list(range(at, at + half))) for at in (0, half)]
            vector, lanes = b.fadd(*(b.shuffle_vector(vector, undefined, mask) for mask in masks)), half
        return b.extract_element(vector, ir.Constant(I32, 0))

    def fma(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        """``a * b + c``, fused where the target can."""
        operation = "fma" if self.target.has_fma else "fmuladd"
        kind = a.type
        if self.number != ir.HalfType() or self.target.half == "arithmetic":
            return self._intrinsic(operation, [a, b, c])
        # Without an instruction for it LLVM calls a library; 32 bits hold the product exactly.
        wide = ir.VectorType(ir.FloatType(), kind.count)
        total = self._intrinsic(operation, [self.builder.fpext(value, wide) for value in (a, b, c)])
        return self.builder.fptrunc(total, kind)

    def sqrt(self, value: ir.Value) -> ir.Value:
        return self._intrinsic("sqrt", [value])

    def absolute(self, value: ir.Value) -> ir.Value:
        return self._intrinsic("fabs", [value])

    def clamp(self, value: ir.Value, low: ir.Value | None, high: ir.Value | None) -> ir.Value:
        """``min(max(value, low), high)``, with the bounds that there are; a NaN stays a NaN, as in torch."""
        b = self.builder
        for bound, intrinsic, beyond in ((low, "maximum", "<"), (high, "minimum", ">")):
            if bound is None:
                continue
            if self.target.keeps_nan:
                value = self._intrinsic(intrinsic, [value, bound])
            else:
                value = b.select(b.fcmp_ordered(beyond, value, bound), bound, value)
        return value

    def larger(self, value: ir.Value, other: ir.Value) -> ir.Value:
        """The larger in every lane; NaN where one is, as in torch."""
        b = self.builder
        if self.target.keeps_nan:
            return self._intrinsic("maximum", [value, other])
        wins = b.or_(b.fcmp_ordered(">", value, other), b.fcmp_unordered("uno", value, value))
        return b.select(wins, value, other)

    def _intrinsic(self, operation: str, operands: Sequence[ir.Value]) -> ir.Value:
        kind = operands[0].type
        suffix = f"v{kind.count}{_type_name(kind.element)}" if isinstance(kind, ir.VectorType) else _type_name(kind)
        return self.call(f"llvm.{operation}.{suffix}", kind, operands)


@dataclass
class Loop:
    """An open loop: its index, the values of this round, those for the next, and those after the last."""

    index: ir.Value
    values: list[ir.Value]
    next: list[ir.Value]
    results: list[ir.Value] = field(default_factory=list)


def _type_name(kind: ir.Type) -> str:
    return {"half": "f16", "float": "f32"}.get(str(kind), str(kind))
