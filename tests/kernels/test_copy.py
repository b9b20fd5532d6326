"""Copies of rows: every number where it belongs, and nothing else read or written."""

from __future__ import annotations

import ctypes
import mmap
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flexgroup.engine import plan_graph
from flexgroup.engine._objects import assembly, load
from flexgroup.kernels import BASE_SHIFT, TARGETS, CopyKernel
from flexgroup.kernels.target import F16, F32
from tests.engine.test_in_place import graph_of
from tests.kernels.here import HERE

PAGE = mmap.PAGESIZE
PROT_NONE = 0


class Fenced:
    """An array at the end of its pages; the page after them may not be touched."""

    def __init__(self, array: np.ndarray) -> None:
        pages = -(-array.nbytes // PAGE)
        self._map = mmap.mmap(-1, (pages + 1) * PAGE)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        protect = ctypes.CDLL(None, use_errno=True).mprotect
        assert protect(ctypes.c_void_p(start + pages * PAGE), PAGE, PROT_NONE) == 0
        self.address = start + pages * PAGE - array.nbytes
        ctypes.memmove(self.address, array.ctypes.data, array.nbytes)
        self.array = np.ctypeslib.as_array((ctypes.c_char * array.nbytes).from_address(self.address)).view(array.dtype)


@pytest.mark.parametrize("target", HERE.values(), ids=HERE)
@settings(max_examples=120, deadline=None)
@given(
    st.sampled_from([(1, 1), (2, 1), (3, 1), (2, 2), (4, 4)]),
    st.integers(1, 40),
    st.integers(1, 3),
    st.integers(0, 3),
    st.integers(0, 20),
    st.sampled_from([(F32, None), (F32, F16), (F16, F32), (F16, None)]),
    st.booleans(),
    st.booleans(),
)
def test_rows_of_any_length_are_copied_and_nothing_else_is_touched(
    target, shape, columns, rows, beyond, cleared, elements, is_fixed, ahead
):
    (step, parts), (read, written) = shape, elements
    if F16 in elements and not target.half:
        return  # there are no instructions for it
    into = written or read
    kinds = {2: np.float16, 4: np.float32}
    length = (columns - 1) * step + parts  # what a row has, up to the last number that is wanted
    source_row, target_row = length + beyond, columns + cleared + beyond
    numbers = np.arange(1, rows * source_row - beyond + 1)
    source = Fenced(numbers.astype(kinds[read.bytes]))
    result = Fenced(np.full(parts * rows * target_row - beyond, -1, kinds[into.bytes]))
    kernel = CopyKernel(step, read, written, parts, *((columns, cleared) if is_fixed else (0, 0)), ahead)
    _engine, addresses = load([kernel], target)
    tables = [np.zeros(1, np.int32), np.arange(parts, dtype=np.int32) * rows * target_row * into.bytes]
    bases = np.array([source.address, result.address, *(table.ctypes.data for table in tables)], np.int64)
    fields = {"source": 0, "target": 1 << BASE_SHIFT, "sources": 2 << BASE_SHIFT, "targets": 3 << BASE_SHIFT}
    fields |= {"source_row": source_row * read.bytes, "target_row": target_row * into.bytes}
    fields |= {"rows": rows, "columns": columns, "gap": cleared, "first": 0, "last": 1}
    arguments = np.array(kernel.signature.pack(fields), np.uint64)
    run = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(addresses[kernel.name])
    run(bases.ctypes.data, arguments.ctypes.data)
    expected = np.full(parts * rows * target_row, -1)
    for part in range(parts):
        for row in range(rows):
            taken = numbers[row * source_row + part :][: length - part : step][:columns]
            expected[(part * rows + row) * target_row :][:columns] = taken
            expected[(part * rows + row) * target_row + columns :][:cleared] = 0
    assert np.array_equal(result.array, expected[: len(result.array)])


@pytest.mark.parametrize("target", ["x86-64-avx512", "x86-64-avx2", "aarch64-linux"])
def test_rows_of_a_known_length_are_copied_without_a_loop(target):
    def innermost(kernel: CopyKernel) -> int:
        """How many blocks of code are loops for themselves."""
        text = assembly([kernel], TARGETS[target])
        blocks = re.findall(r"^(\.?LBB\w+):(.*?)(?=^\.?LBB|\Z)", text, re.MULTILINE | re.DOTALL)
        return sum(re.search(rf"\s{re.escape(label)}$", body, re.MULTILINE) is not None for label, body in blocks)

    known = CopyKernel(2, parts=2, columns=28, gap=1)
    assert innermost(known) == 1  # over rows
    assert innermost(replace(known, columns=0, gap=0)) > 1


def test_only_what_comes_from_the_caller_is_asked_for_early():
    def asks(kernel: CopyKernel) -> bool:
        return "prefetch" in assembly([kernel], TARGETS["x86-64-avx512"])

    assert asks(CopyKernel(2, parts=2, ahead=True))
    assert not asks(CopyKernel(2, parts=2))
    plan = plan_graph(graph_of(nn.Conv2d(3, 8, 3, 2, 1).eval(), (3, 64, 160)), TARGETS["x86-64-avx512"])
    first, *others = (step.kernel for step in plan.steps if isinstance(step.kernel, CopyKernel))
    assert first.ahead
    assert not first.columns  # longer than is worth its code
    assert others
    assert not any(kernel.ahead for kernel in others)
