"""How threads share a convolution: every vector once, and no share longer than it has to be."""

from __future__ import annotations

from itertools import combinations_with_replacement, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from flexgroup.engine import CompiledModel, _compiled, plan_graph
from flexgroup.engine._shares import even_cuts, even_tiles
from flexgroup.kernels import TARGETS, ConvKernel
from tests.engine.test_in_place import graph_of
from tests.engine.test_rows_as_vectors import forced
from tests.kernels.here import HOST

AVX512 = TARGETS["x86-64-avx512"]


@given(st.integers(1, 12), st.integers(1, 200), st.integers(1, 5))
def test_equal_parts_cover_every_vector_once(size, vectors, threads):
    parts = even_tiles(size, vectors, threads)
    if parts is None:
        assert vectors < threads * max(1, size * (size - 1)), "so many vectors can always be cut"
        return
    lengths = [tiles.whole * tiles.size + tiles.tails * tiles.tail for _, tiles in parts]
    assert [first for first, _ in parts] == [0, *np.cumsum(lengths[:-1])]
    assert sum(lengths) == vectors
    assert max(lengths) - min(lengths) <= 1
    assert {tiles.tail for _, tiles in parts} <= {0, size - 1}


@given(st.lists(st.integers(0, 20), min_size=1, max_size=8), st.integers(1, 4), st.data())
def test_the_longest_part_is_as_short_as_possible(lengths, threads, data):
    ends = np.concatenate([[0.0], np.cumsum(lengths)])
    again = [data.draw(st.integers(0, length)) for length in lengths]  # of every item, what the next part repeats
    begins = ends - np.array([0, *again])

    def longest(cuts: list[int]) -> float:
        return max(ends[last] - begins[first] for first, last in pairwise(cuts) if first < last)

    cuts = even_cuts(begins, ends, threads)
    assert cuts[0] == 0
    assert cuts[-1] == len(lengths)
    assert cuts == sorted(cuts)
    if sum(lengths):
        inner = combinations_with_replacement(range(len(lengths) + 1), threads - 1)
        best = min(longest([0, *each, len(lengths)]) for each in inner)
        assert longest(cuts) <= best * (1 + 1e-6) + 1e-6


@pytest.mark.parametrize("threads", [2, 3])
def test_channels_are_shared_by_their_groups(threads):
    """Half of the channels have nearly all groups: a ring's share of them is shorter."""
    torch.manual_seed(0)
    model = nn.Conv2d(64, 64, 3, padding=1).eval()
    with torch.no_grad():
        model.weight[:32] *= torch.rand(32, 64, 3, 3) < 0.05
        model.weight[32:] *= torch.rand(32, 64, 3, 3) < 0.5
    plan = plan_graph(graph_of(model, (64, 8, 8)), AVX512, threads=threads)
    (step,) = (step for step in plan.steps if isinstance(step.kernel, ConvKernel))
    fields = [dict(zip(step.kernel.signature.fields, part, strict=True)) for part in step.parts if part is not None]
    rows = [each["row_count"] for each in fields]
    assert len(rows) == threads
    assert rows[0] > 32 > 2 * rows[-1] if threads == 3 else rows[0] > 40


def test_threads_have_as_many_vectors():
    model = nn.Conv2d(16, 16, 3, padding=1).eval()
    plan = plan_graph(graph_of(model, (16, 32, 32)), AVX512, threads=2)
    (step,) = (step for step in plan.steps if isinstance(step.kernel, ConvKernel))
    fields = [dict(zip(step.kernel.signature.fields, part, strict=True)) for part in step.parts if part is not None]
    whole, count = [each["whole_tiles"] for each in fields], [each["last_tile"] for each in fields]
    kernel = step.kernel
    vectors = [w * kernel.tile + (c - w) * kernel.tail for w, c in zip(whole, count, strict=True)]
    assert vectors == [33, 33]
    assert fields[1]["target"] - fields[0]["target"] == 33 * 64


@pytest.mark.parametrize("size", [(8, 8), (16, 16), (13, 29), (32, 32)])
def test_results_are_those_of_one_thread(size):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 24, 3, padding=1)).eval()
    x = torch.randn(1, 3, *size)
    graph = graph_of(model, (3, *size))
    alone = CompiledModel(plan_graph(graph, HOST), 0.0)(x)
    for threads in (2, 3, 4):
        assert torch.equal(CompiledModel(plan_graph(graph, HOST, threads=threads), 0.0)(x), alone)


def test_large_tiles_are_cut_again_rather_than_channels():
    """66 vectors are five tiles of 14, which two threads cannot share evenly: they are six of eleven."""
    model = nn.Conv2d(16, 16, 3, padding=1).eval()
    plan = plan_graph(graph_of(model, (16, 32, 32)), AVX512, threads=2, chooser=forced("ring", 2))
    (step,) = (step for step in plan.steps if isinstance(step.kernel, ConvKernel))
    assert (step.kernel.tile, step.kernel.tail) == (11, 0)
    at = step.kernel.signature.fields.index("last_tile")
    assert [part[at] for part in step.parts if part is not None] == [3, 3]


def shares_of(model: nn.Module, shape: tuple[int, ...]) -> list[str]:
    """What two threads share the convolutions of a network by, in order."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_compiled, "find_regions", lambda builder, operations, chains: [])
        plan = plan_graph(graph_of(model.eval(), shape), AVX512, threads=2, chooser=forced("strip", 4))
    found = []
    for step in plan.steps:
        if isinstance(step.kernel, ConvKernel):
            at = step.kernel.signature.fields.index("weights")
            found.append("planes" if len({part[at] for part in step.parts if part is not None}) > 1 else "positions")
    return found


def test_little_is_handed_from_thread_to_thread():
    """Many outputs for a depthwise layer stay where they were written; few outputs of many inputs are handed on."""
    torch.manual_seed(0)

    def block(inputs: int, inner: int, outputs: int) -> list[nn.Module]:
        wide, narrow = nn.Conv2d(inputs, inner, 1), nn.Conv2d(inner, outputs, 1)
        depthwise = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        return [wide, nn.ReLU6(), depthwise, nn.ReLU6(), narrow]

    model = nn.Sequential(*block(32, 192, 32), *block(32, 192, 32))
    assert shares_of(model, (32, 14, 14)) == ["planes", "positions"] * 2


def test_convolutions_in_a_row_keep_their_positions():
    model = nn.Sequential(nn.Conv2d(64, 64, 1), nn.ReLU(), nn.Conv2d(64, 64, 1), nn.ReLU(), nn.Conv2d(64, 64, 1))
    assert shares_of(model, (64, 28, 28))[1] == "positions"
