"""Convolutions that run slice by slice with what reads them: torch's numbers, less memory, and only where it pays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flexgroup.engine import Plan, _chains, _slices, plan_graph
from flexgroup.engine._explain import explain_plan
from flexgroup.kernels import TARGETS, ConvKernel
from tests.engine.networks import PATTERNS, examples, networks, randomise
from tests.engine.test_chains import deep_networks
from tests.engine.test_in_place import (
    gives_the_same_on_any_number_of_threads,
    graph_of,
    residual_networks,
    twins_give_what_torch_gives,
)
from tests.engine.test_regions import gains

ANY = st.one_of(networks(), residual_networks(), deep_networks())
CACHE = 300 << 10  # of which a slice of 8 channels of 56x56 pixels takes a third


@contextmanager
def everywhere(channels: int = 4) -> Iterator[list[int]]:
    """Slices of so many channels, or of a strip, wherever they can be; yields how many every layer has."""
    found: list[int] = []
    own = _chains.Planner._sliced

    def sliced(self, first):
        _, operations = own(self, first)
        found.extend([len(operations)] if operations else [])
        return (-1.0 if operations else float("inf")), operations

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_slices, "_channels", lambda builder, count, plane, rows: max(channels, rows))
        patch.setattr(_chains.Planner, "_sliced", sliced)
        yield found


def block(inputs: int, inner: int, stride: int = 1, kernel: int = 3) -> list[nn.Module]:
    """A pointwise layer, and a depthwise one that reads it."""
    depthwise = nn.Conv2d(inner, inner, kernel, stride, kernel // 2, groups=inner)
    return [nn.Conv2d(inputs, inner, 1), nn.ReLU6(), depthwise, nn.ReLU6()]


@st.composite
def sliced_networks(draw) -> tuple[nn.Module, tuple[int, int, int]]:
    """Depthwise layers and strided ones after others, of which slices can be made."""
    draw(st.random_module())
    channels, size = draw(st.integers(1, 3)), (draw(st.integers(5, 24)), draw(st.integers(5, 24)))
    layers: list[nn.Module] = [nn.Conv2d(channels, 9, 3, draw(st.integers(1, 2)), 1), nn.ReLU()]
    count = 9
    for _ in range(draw(st.integers(1, 3))):
        inner, kernel = draw(st.integers(5, 17)), draw(st.sampled_from([1, 3, 5]))
        kind, stride = draw(st.sampled_from(["depthwise", "strided", "pool"])), draw(st.integers(1, 2))
        if kind == "depthwise":
            layers += block(count, inner, stride, kernel)
        elif kind == "strided":
            layers += [nn.Conv2d(count, inner, 1), nn.ReLU(), nn.Conv2d(inner, inner, kernel, 2, kernel // 2)]
        else:
            layers += [nn.Conv2d(count, inner, kernel, 1, kernel // 2), nn.ReLU(), nn.MaxPool2d(3, stride, 1)]
        count = inner
    model = nn.Sequential(*layers, nn.Conv2d(count, 3, 1))
    randomise(model, draw(st.integers(0, 1000)))
    return model.eval(), (channels, *size)


@settings(max_examples=examples(40), deadline=None)
@given(
    st.one_of(sliced_networks(), ANY),
    st.sampled_from(PATTERNS),
    st.sampled_from([4, 8]),
    st.integers(1, 3),
    st.sampled_from(sorted(TARGETS)),
)
def test_the_twins_give_what_torch_gives_whatever_thread_is_first(case, pattern, channels, threads, target):
    """With regions too; memory that nothing cleared holds NaN."""
    twins_give_what_torch_gives(case, pattern, target, threads, everywhere(channels), gains())


@settings(max_examples=examples(30), deadline=None)
@given(st.one_of(sliced_networks(), ANY), st.sampled_from(PATTERNS), st.sampled_from([4, 8]))
def test_results_are_those_of_whole_layers_on_any_number_of_threads(case, pattern, channels):
    gives_the_same_on_any_number_of_threads(case, pattern, lambda: [everywhere(channels), gains()])


def steps_of(plan: Plan) -> list[str]:
    return [step.name for step in plan.steps if step.dense_macs]


def plan_of(layers: list[nn.Module], size: int, cache: int, **options: int) -> Plan:
    torch.manual_seed(0)
    model = nn.Sequential(*layers).eval()
    target = replace(TARGETS["x86-64-avx512"], cache_bytes=cache)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_chains, "WORTH", 0.0)  # no chain is
        return plan_graph(graph_of(model, (layers[0].in_channels, size, size)), target, **options)


def test_large_images_run_in_slices_and_take_the_memory_of_one():
    layers = [*block(16, 64), nn.Conv2d(64, 8, 1)]
    sliced, whole = plan_of(layers, 56, CACHE), plan_of(layers, 56, 1 << 22)
    assert steps_of(whole) == ["0", "2", "4"]
    assert steps_of(sliced) == [*["0", "2"] * 8, "4"]
    assert sliced.arena_bytes < 0.7 * whole.arena_bytes
    assert [layer.calls for layer in explain_plan(sliced).layers] == [8, 8, 1]
    assert "slice by slice" in explain_plan(sliced).layers[0].reason
    assert "slice by slice" not in explain_plan(whole).layers[0].reason


def test_slices_are_of_equal_size_and_of_whole_strips():
    plan = plan_of([*block(16, 52), nn.Conv2d(52, 8, 1)], 56, CACHE)
    at = [step for step in plan.steps if step.name == "0" and isinstance(step.kernel, ConvKernel)]
    rows = [dict(zip(step.kernel.signature.fields, step.parts[0], strict=True))["row_count"] for step in at]
    assert rows == [8, 8, 8, 8, 8, 8, 4]


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Conv2d(16, 64, 1), nn.ReLU(), nn.Conv2d(64, 64, 3, 1, 1), nn.Conv2d(64, 8, 1)],  # reads all channels
        [nn.Conv2d(16, 64, 1, groups=4), nn.Conv2d(64, 64, 3, 1, 1, groups=64), nn.Conv2d(64, 8, 1)],
    ],
    ids=["dense", "grouped"],
)
def test_what_cannot_be_in_slices_is_whole(layers):
    assert max(map(steps_of(plan_of(layers, 56, CACHE)).count, "012")) == 1


class Two(nn.Module):
    """A layer that a depthwise one reads, and the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.depthwise = nn.Conv2d(16, 64, 1), nn.Conv2d(64, 64, 3, 1, 1, groups=64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        return self.depthwise(x) + x


def test_what_others_read_too_is_whole():
    target = replace(TARGETS["x86-64-avx512"], cache_bytes=CACHE)
    with everywhere() as found:
        plan_graph(graph_of(Two().eval(), (16, 56, 56)), target)
    assert not found


def test_no_thread_waits_between_slices():
    layers = [*block(16, 64), *block(64, 64), nn.Conv2d(64, 8, 1)]
    with everywhere(8) as found, gains() as regions:
        plan_of(layers, 56, CACHE, threads=2)
    (region,) = regions
    assert found == [8, 8]
    assert len(region.operations) > 32
    assert len(region.waits) == 2  # for the rows that the second block's slices read of the first, and at the end
