"""Copies of rows: every number where it belongs, and nothing else read or written."""

from __future__ import annotations

import ctypes
import mmap

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexgroup.engine._objects import load
from flexgroup.kernels import BASE_SHIFT, CopyKernel
from flexgroup.kernels.target import F16, F32
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
@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([(1, 1), (2, 1), (3, 1), (2, 2), (4, 4)]),
    st.integers(1, 40),
    st.integers(1, 3),
    st.integers(0, 3),
    st.integers(0, 20),
    st.sampled_from([(F32, None), (F32, F16), (F16, F32), (F16, None)]),
)
def test_rows_of_any_length_are_copied_and_nothing_else_is_touched(
    target, shape, columns, rows, beyond, cleared, elements
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
    kernel = CopyKernel(step, read, written, parts)
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
