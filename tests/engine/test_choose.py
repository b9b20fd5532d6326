"""The choice of a kernel: what it must not be fooled by."""

from __future__ import annotations

import numpy as np
import pytest

from flexgroup.engine._choose import Layer, choose
from flexgroup.engine._costs import default_costs
from flexgroup.engine._objects import module_for
from flexgroup.kernels import TARGETS, ConvKernel
from flexgroup.kernels.emit import STACK
from flexgroup.kernels.linear import LinearKernel

AVX2 = TARGETS["x86-64-avx2"]
HEIGHTS = (1, 2, 4, 8)


def layer_of(pattern: np.ndarray, *, size: int = 14, far: bool = False) -> Layer:
    columns = pattern.shape[1]
    return Layer(pattern, size, size, size + 1, 8, False, planes=columns, segments=columns, far=far)


@pytest.mark.parametrize("channels", [16, 64, 256])
def test_without_zeros_no_kernel_has_tables_of_groups(channels):
    layer = layer_of(np.ones((channels, channels), np.bool_))
    assert choose(layer, AVX2, sparse=True, heights=HEIGHTS, costs=default_costs(AVX2)).form == "dense"


def test_zeros_that_no_group_can_skip_change_nothing():
    pattern = np.ones((64, 64), np.bool_)
    dense = choose(layer_of(pattern), AVX2, sparse=True, heights=(2, 4, 8), costs=default_costs(AVX2))
    pattern[::8] = False  # a row here and there
    found = choose(layer_of(pattern), AVX2, sparse=True, heights=(2, 4, 8), costs=default_costs(AVX2))
    assert (found.form, found.rows, found.tile, found.panel) == (dense.form, dense.rows, dense.tile, dense.panel)


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
