"""The choice of a kernel: what it must not be fooled by."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flexgroup.engine import _choose
from flexgroup.engine._choose import Layer, candidates_of, choose, conv_work, tile_of
from flexgroup.engine._costs import default_costs
from flexgroup.engine._objects import module_for
from flexgroup.kernels import TARGETS, ConvKernel, Target
from flexgroup.kernels.emit import STACK
from flexgroup.kernels.linear import LinearKernel

AVX2 = TARGETS["x86-64-avx2"]
HEIGHTS = (1, 2, 4, 8)


def layer_of(pattern: np.ndarray, *, size: int = 14, far: bool = False) -> Layer:
    columns = pattern.shape[1]
    return Layer(pattern, size, size, size + 1, 8, False, planes=columns, segments=columns, far=far)


def considered(pattern: np.ndarray, heights: tuple[int, ...] = HEIGHTS) -> set[str]:
    """The forms of kernels that are costed for a layer."""
    forms = set()

    def costed(form, rows, layer, target, costs):
        forms.add(form)
        return candidates_of(form, rows, layer, target, costs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_choose, "candidates_of", costed)
        choose(layer_of(pattern), AVX2, sparse=True, heights=heights, costs=default_costs(AVX2))
    return forms


@pytest.mark.parametrize("channels", [16, 64, 256])
def test_without_zeros_no_kernel_has_tables_of_groups(channels):
    assert "dense" in considered(np.ones((channels, channels), np.bool_)) <= {"dense", "channels"}


def test_zeros_that_no_group_can_skip_change_nothing():
    pattern = np.ones((64, 64), np.bool_)
    pattern[::8] = False  # a row here and there
    assert considered(pattern, heights=(2,)) == {"dense"}
    pattern[1::8] = False
    assert considered(pattern, heights=(2,)) == {"dense", "strip", "ring"}


def test_a_strip_of_a_grouped_layer_reads_the_planes_of_its_group():
    pattern = np.ones((128, 4 * 9), np.bool_)
    reads = {"planes": 128, "segments": 3 * 128, "span": 2, "far": True}
    layer = Layer(pattern, 56, 56, 57, 8, True, **reads, blocks=32)
    found = choose(layer, AVX2, sparse=True, heights=(1, 2, 4), costs=default_costs(AVX2))
    assert (found.rows, found.tile) == (4, 3)
    assert conv_work(layer, found.form, found.rows, found.tile, AVX2).missed == 0


@pytest.mark.parametrize(("size", "channels"), [(56, 64), (28, 128)])
def test_dense_layers_copy_far_planes_to_panels(size, channels):
    pattern = np.ones((256, channels), np.bool_)
    found = choose(
        layer_of(pattern, size=size, far=True), AVX2, sparse=True, heights=HEIGHTS, costs=default_costs(AVX2)
    )
    assert found.panel


@pytest.mark.parametrize("name", ["x86-64", "x86-64-avx2", "x86-64-avx512", "aarch64-linux"])
def test_the_stack_is_aligned_for_vectors_that_platforms_do_not_align_it_for(name):
    target = TARGETS[name]
    for kernel in (ConvKernel("dense", 4, 2, False), LinearKernel(2)):
        wanted = f"alignstack({target.vector_bytes})" if target.vector_bytes > STACK else None
        text = str(module_for((kernel,), target, runner=False))
        assert wanted in text if wanted else "alignstack" not in text


def in_pairs(channels: int, share: float, *, displaced: bool = False) -> tuple[Layer, Target]:
    """A layer of 256 outputs and groups of two rows, on 28x28 pixels, for 48 KiB of first-level cache."""
    rng = np.random.default_rng(0)
    taps = 9 if displaced else 1
    pattern = np.repeat(rng.random((128, taps * channels)) < share, 2, axis=0)
    reads = {"planes": channels, "segments": (3 if displaced else 1) * channels, "rowwise": True}
    layer = Layer(pattern, 28, 28, 29, 16, displaced, span=2 * displaced, **reads)
    return layer, replace(TARGETS["x86-64-avx512"], first_cache_bytes=48 << 10)


@pytest.mark.parametrize(("channels", "most"), [(64, 8), (128, 6), (192, 6)])
def test_tiles_are_as_short_as_lets_their_inputs_stay_in_the_first_level_cache(channels, most):
    layer, target = in_pairs(channels, 0.2)
    found = choose(layer, target, sparse=True, heights=(2,), costs=default_costs(target))
    assert found.form in ("strip", "ring")
    assert 4 <= found.tile <= most


@pytest.mark.parametrize(("channels", "displaced"), [(24, False), (512, False), (64, True)])
def test_tiles_are_long_where_all_stays_there_or_nothing_does_or_taps_read_it_again(channels, displaced):
    layer, target = in_pairs(channels, 0.2, displaced=displaced)
    found = choose(layer, target, sparse=True, heights=(2,), costs=default_costs(target))
    assert found.tile == tile_of(layer, found.form, found.rows, target) > 8


def test_of_more_inputs_fewer_are_found_in_the_first_level_cache():
    missed = []
    for channels in (32, 64, 128, 512):
        layer, target = in_pairs(channels, 0.2)
        missed.append(conv_work(layer, "strip", 2, 14, target).missed)
    assert missed == sorted(missed)
    assert missed[0] == 0
    assert 0.9 < missed[-1] < 1
