"""Zeros beside the pixels of an image: written where a reader looks at them, and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flexgroup.engine import _compiled, plan_graph
from flexgroup.engine._objects import assembly
from flexgroup.kernels import TARGETS, ConvKernel, DepthwiseKernel
from tests.engine.networks import PATTERNS, examples, networks, randomise
from tests.engine.test_in_place import gives_the_same_on_any_number_of_threads, graph_of, residual_networks

AVX2, AVX512 = TARGETS["x86-64-avx2"], TARGETS["x86-64-avx512"]


@contextmanager
def borders_everywhere() -> Iterator[None]:
    """Every image has zeros around it, whoever reads it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_compiled, "ragged", lambda layout, shared: set())
        yield


@settings(max_examples=examples(40), deadline=None)
@given(st.one_of(networks(), residual_networks()), st.sampled_from(PATTERNS))
def test_results_are_those_of_images_with_borders(case, pattern):
    gives_the_same_on_any_number_of_threads(case, pattern, lambda: [borders_everywhere()])


def borders(*layers: nn.Module, size: int = 12, target=AVX512) -> list[bool]:
    """Whether the convolutions, in order, write zeros beside pixels."""
    model = nn.Sequential(*layers).eval()
    randomise(model, 0)
    steps = plan_graph(graph_of(model, (8, size, size)), target).steps
    return [step.kernel.border for step in steps if isinstance(step.kernel, ConvKernel | DepthwiseKernel)]


POINT, WINDOW, VALID = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3)
STRIDED, DEPTHWISE = nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
MEAN = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


def test_only_windows_that_reach_beyond_an_image_need_its_border():
    assert borders(POINT, WINDOW, POINT) == [True, False, False]
    assert borders(POINT, DEPTHWISE, POINT) == [True, False, False]
    assert borders(POINT, nn.MaxPool2d(3, 1, 1), POINT)[0]
    assert borders(POINT, VALID, POINT) == [False, False, False]
    assert borders(WINDOW, POINT, MEAN) == [False, False]
    assert borders(POINT, STRIDED) == [False, False]  # pixels alone are copied to phases
    assert borders(POINT, nn.Hardswish(), POINT) == [False, False]


def test_an_image_that_replaces_one_with_a_border_has_it_too():
    class Block(nn.Module):
        def __init__(self, last: nn.Module) -> None:
            super().__init__()
            self.first, self.window, self.point, self.last = POINT, WINDOW, nn.Conv2d(8, 8, 1), last

        def forward(self, x):
            x = self.first(x).relu()
            return self.last((x + self.point(self.window(x))).relu())

    assert borders(Block(nn.Conv2d(8, 4, 1))) == [True, False, True, False]  # the sum lies where ``x`` was


def test_gpus_write_every_border():
    assert all(borders(POINT, POINT, MEAN, target=replace(AVX2, triple="")))


STRIP = ConvKernel("strip", 4, 5, residual=True, tail=3, stacked=4)


@pytest.mark.parametrize("form", ["ring", "strip"])
def test_masks_are_loaded_once_for_all_rows_where_there_are_registers_for_them(form):
    kernel = replace(STRIP, form=form)
    blocks = re.split(r"\n\.?L[\w.]+:", assembly([kernel], AVX512))
    storing = [block for block in blocks if block.count("vminps") > 1]
    assert storing
    for block in storing:
        assert block.count("{z}") >= block.count("vminps") - 1  # a piece of a row has half a vector
        assert not re.search(r"vpmov|vptest", block)


def test_what_nobody_looks_at_and_bounds_that_are_none_take_no_code():
    def instructions(**options: bool) -> set[str]:
        return set(re.findall(r"\bv(?:and|min|max)ps\b", assembly([replace(STRIP, stacked=0, **options)], AVX2)))

    assert instructions() == {"vandps", "vminps", "vmaxps"}
    assert instructions(border=False) == {"vminps", "vmaxps"}
    assert instructions(high=False) == {"vandps", "vmaxps"}
    assert instructions(border=False, low=False, high=False) == set()
    assert "{z}" not in assembly([replace(STRIP, border=False)], AVX512)


def test_a_kernel_has_the_bounds_of_its_layer():
    def bounds(*after: nn.Module) -> tuple[bool, bool]:
        steps = plan_graph(graph_of(nn.Sequential(POINT, *after).eval(), (8, 5, 5)), AVX512).steps
        (kernel,) = (step.kernel for step in steps if isinstance(step.kernel, ConvKernel))
        return kernel.low, kernel.high

    assert bounds() == (False, False)
    assert bounds(nn.ReLU()) == (True, False)
    assert bounds(nn.ReLU6()) == (True, True)
