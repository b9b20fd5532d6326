"""Packed weights hold every weight once, in every form, height and band; tiles fit the registers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flexgroup.kernels import TARGETS, ConvKernel
from flexgroup.kernels.conv import largest_tile
from flexgroup.kernels.linear import pack_linear
from flexgroup.kernels.packing import pack

MATRICES = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 17), st.integers(1, 7)), elements=st.sampled_from([0.0, 0.0, 1.0, -2.0, 3.0])
)


def unpacked(packed, form: str, rows: int, height: int, width: int) -> np.ndarray:
    """The rows that the kernel would compute, as a matrix."""
    matrix = np.zeros((height + 2 * rows, width), np.float32)
    if form == "dense":
        for i, weights in enumerate(packed.weights):
            matrix[i // width * rows : i // width * rows + rows, i % width] += weights
        return matrix[:height]
    group = 0
    for loop, end in enumerate(packed.ends):
        first = loop if form == "ring" else loop * rows
        for g in range(group, end):
            matrix[first : first + rows, packed.columns[g]] += packed.weights[g]
        group = end
    assert group == packed.groups
    return matrix[:height]


@settings(max_examples=150, deadline=None)
@given(MATRICES, st.sampled_from(["ring", "strip", "dense"]), st.sampled_from([1, 2, 4, 8]), st.data())
def test_a_band_holds_exactly_its_rows(matrix, form, rows, data):
    height, width = matrix.shape
    strips = -(-height // rows)
    first = data.draw(st.integers(0, strips - 1)) * rows
    last = min(height, first + data.draw(st.integers(1, strips)) * rows)
    packed = pack(matrix, matrix != 0, form, rows, (first, last))
    assert (unpacked(packed, form, rows, last - first, width) == matrix[first:last]).all()


@settings(max_examples=50, deadline=None)
@given(MATRICES, st.sampled_from([1, 2, 4]), st.sampled_from([4, 8]))
def test_linear_weights_lie_along_the_lanes(matrix, tile, lanes):
    bias = np.arange(matrix.shape[0], dtype=np.float32)
    weights, padded_bias = pack_linear(matrix, bias, tile, lanes)
    blocks, columns, block = weights.shape
    assert block == tile * lanes
    assert columns == matrix.shape[1]
    whole = weights.transpose(0, 2, 1).reshape(blocks * block, columns)
    assert (whole[: matrix.shape[0]] == matrix).all()
    assert np.count_nonzero(whole) == np.count_nonzero(matrix)
    assert (padded_bias[: len(bias)] == bias).all()


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize("rows", [1, 2, 4, 8])
def test_a_tile_leaves_registers_for_weights_and_activations(target, rows):
    tile = largest_tile(rows, target)
    assert tile >= 1
    assert tile == 1 or tile * rows + min(tile, rows) + 1 <= target.vector_registers


def test_names_say_what_is_compiled_in():
    assert ConvKernel("ring", 4, 6, True).name == "conv_f32_ring_4x1_t6_add"
