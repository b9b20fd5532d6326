"""Chains: networks that run band by band give what torch gives, whatever the bands, the windows and the threads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flexgroup.engine import CompiledModel, Plan, _chains, plan_graph
from flexgroup.engine._bands import even_band, least_rows, schedule
from flexgroup.engine._layout import Image, PlaneRef
from flexgroup.engine._rows import Rows, Use
from flexgroup.graph import from_torch, optimize
from flexgroup.kernels import TARGETS
from flexgroup.zoo import build, input_shape
from tests.engine.agreement import twins_agree
from tests.engine.networks import PATTERNS, examples, networks, prune, randomise
from tests.engine.twins import run_plan
from tests.kernels.here import HOST

TINY = 2048  # bytes of cache: every image is too large for it


@pytest.fixture(scope="module", autouse=True)
def _eager():
    """Chains wherever they promise anything, and no slices: the more chains there are, the more is tested."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_chains, "WORTH", 1.0)
        patch.setattr(_chains, "slices", lambda *given: [])
        yield


class Bottleneck(nn.Module):
    """1x1, 3x3 (strided or depthwise), 1x1, and a shortcut where shapes allow it."""

    def __init__(self, channels: int, inner: int, out: int, stride: int, depthwise: bool) -> None:
        super().__init__()
        groups = inner if depthwise else 1
        self.body = nn.Sequential(
            nn.Conv2d(channels, inner, 1),
            nn.ReLU6(),
            nn.Conv2d(inner, inner, 3, stride, 1, groups=groups),
            nn.ReLU6(),
            nn.Conv2d(inner, out, 1),
        )
        self.adds = stride == 1 and channels == out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.body(x)
        return y + x if self.adds else y


@st.composite
def deep_networks(draw) -> tuple[nn.Module, tuple[int, int, int]]:
    """Stems, pools and bottlenecks on images that are large beside a tiny cache."""
    draw(st.random_module())  # torch's numbers too
    channels = draw(st.integers(2, 6))
    shape = (3, draw(st.integers(17, 40)), draw(st.integers(17, 40)))
    kernel = draw(st.sampled_from([1, 3, 5, 7]))
    layers: list[nn.Module] = [nn.Conv2d(3, channels, kernel, draw(st.integers(1, 2)), kernel // 2), nn.ReLU()]
    if draw(st.booleans()):
        layers.append(nn.MaxPool2d(3, draw(st.integers(1, 2)), 1))
    for _ in range(draw(st.integers(1, 3))):
        out = draw(st.sampled_from([channels, 5, 8]))
        inner, stride = draw(st.integers(3, 9)), draw(st.sampled_from([1, 1, 2]))
        layers.append(Bottleneck(channels, inner, out, stride, draw(st.booleans())))
        channels = out
    model = nn.Sequential(*layers)
    randomise(model, draw(st.integers(0, 1000)))
    return model.eval(), shape


def plan_of(model: nn.Module, x: torch.Tensor, threads: int = 1, cache: int = TINY) -> Plan:
    return plan_graph(optimize(from_torch(model, (x,))), replace(HOST, cache_bytes=cache), threads=threads)


def chains_of(plan: Plan) -> set[int]:
    return {step.chain for step in plan.steps if step.chain >= 0}


@settings(max_examples=examples(25), deadline=None)
@given(st.one_of(deep_networks(), networks()), st.sampled_from(PATTERNS), st.sampled_from([1024, 4096, 16384]))
def test_bands_change_nothing_for_any_number_of_threads(case, pattern, cache):
    model, shape = case
    prune(model, pattern, 0.3)
    x = torch.randn(2, *shape)
    with torch.no_grad():
        expected = model(x)
    results = []
    for threads in (1, 2, 3):
        compiled = CompiledModel(plan_of(model, x[:1], threads=threads, cache=cache), 0.0)
        compiled(torch.randn_like(x))  # what one image leaves in the windows must not reach the next
        results.append(compiled(x))
        compiled.close()
    assert float((results[0] - expected).abs().max()) <= 1e-4 * max(1e-3, float(expected.abs().max()))
    assert all(torch.equal(results[0], other) for other in results[1:])


@settings(max_examples=examples(15), deadline=None)
@given(deep_networks(), st.sampled_from(PATTERNS), st.sampled_from(sorted(TARGETS)), st.integers(1, 3))
def test_banded_plans_mean_the_same_to_the_numpy_twins(case, pattern, target, threads):
    """The twins' scratch holds NaN at first: nothing is read that was not written before."""
    model, shape = case
    tiny = replace(TARGETS[target], cache_bytes=TINY)
    twins_agree(model, shape, pattern, 0.3, target=tiny, threads=threads)


def inverted_residual() -> tuple[nn.Module, torch.Tensor]:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU6(), Bottleneck(8, 48, 8, 1, True))
    randomise(model, 0)
    return model.eval(), torch.randn(1, 3, 96, 96)


def test_what_passes_between_the_layers_of_a_chain_takes_a_fraction_of_the_memory():
    model, x = inverted_residual()
    banded, whole = plan_of(model, x, cache=192 << 10), plan_of(model, x, cache=0)
    assert chains_of(banded)
    assert not chains_of(whole)
    assert banded.arena_bytes <= 0.75 * whole.arena_bytes


def test_threads_wait_for_each_other_at_the_end_of_a_chain_only():
    model, x = inverted_residual()
    plan = plan_of(model, x, threads=2, cache=192 << 10)
    for chain in chains_of(plan):
        steps = [step for step in plan.steps if step.chain == chain]
        assert [step.barrier for step in steps] == [False] * (len(steps) - 1) + [True]
        assert all(any(step.parts[thread] is not None for step in steps) for thread in range(2))


def test_a_cache_that_holds_everything_makes_no_chains():
    model, x = inverted_residual()
    assert not chains_of(plan_of(model, x, cache=64 << 20))


def image(buffer: int, height: int) -> Image:
    return Image((PlaneRef(buffer, 0),), height, 10)


def test_a_chain_has_to_promise_more_than_the_model_may_err(monkeypatch):
    model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3, 1, 1, groups=16), nn.Conv2d(16, 8, 1))
    graph = optimize(from_torch(model.eval(), (torch.randn(1, 3, 40, 40),)))
    target = replace(TARGETS["x86-64-avx512"], cache_bytes=16384)
    assert {step.chain for step in plan_graph(graph, target).steps} > {-1}
    monkeypatch.setattr(_chains, "WORTH", 0.1)
    assert {step.chain for step in plan_graph(graph, target).steps} == {-1}


@given(st.integers(1, 224), st.integers(1, 60), st.sampled_from([1, 4]))
def test_bands_are_as_even_as_whole_blocks_can_be(blocks, band, grain):
    last = Rows((), Image((), blocks * grain, 1), grain)
    height, count = even_band(last, blocks * grain, band), -(-blocks * grain // last.whole(0, band)[1])
    assert height % grain == 0
    assert height <= last.whole(0, band)[1]
    assert (count - 1) * height < blocks * grain <= count * height


def test_two_bands_cost_what_both_of_them_compute():
    """13 rows in bands of 7: the model once took two bands of the last one's 6 rows for all of the work."""
    model = nn.Sequential(nn.Conv2d(64, 64, 1), nn.Conv2d(64, 64, 3, 1, 1, groups=64))
    graph = optimize(from_torch(model.eval(), (torch.randn(1, 64, 13, 14),)))
    found = []

    class Planner(_chains.Planner):
        def best(self):
            first = next(i for i in range(len(self.operations)) if self._windowed(i, i + 2))
            rows, windows = self._rows(first, first + 2), frozenset(self.rows[first].out.buffers)
            slots = self._banded(first, rows, self._windowed(first, first + 2), windows, 7)
            # Of the first layer 8 rows, one more than the second reads for its 7, and then the other 5.
            calls = [(first, 8), (first, 5), (first + 1, 7), (first + 1, 6)]
            found.append((slots, sum(self._estimated(i, count, windows) for i, count in calls)))
            return super().best()

        def _banded(self, first, rows, windowed, windows, band):
            # What threads cut their own rows into is never higher than what was looked at.
            assert band == even_band(rows[-1], rows[-1].out.height, band)
            return super()._banded(first, rows, windowed, windows, band)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_chains, "Planner", Planner)
        plan_graph(graph, replace(TARGETS["x86-64-avx2"], cache_bytes=1 << 17))
    ((slots, calls),) = found
    assert slots == pytest.approx(calls)


def odd_network():
    """Images of 99, 48, 24 and 22 rows: what bands need of them is in no proportion."""
    layers = [nn.Conv2d(32, 32, 5, 2, 0, groups=32), nn.Conv2d(32, 96, 5, 1, 2)]
    layers += [nn.Conv2d(96, 96, 3, 2, 1, groups=96), nn.Conv2d(96, 96, 3, 1, 0, groups=96)]
    layers += [nn.Conv2d(96, 96, 5, 1, 0, groups=96), nn.MaxPool2d(3, 1), nn.MaxPool2d(3, 1)]
    return nn.Sequential(*layers), (32, 99, 99)


@pytest.mark.parametrize(
    ("name", "cache"), [("mobilenet_v1_025", 1 << 16), ("resnet18", 1 << 19), ("unet", 1 << 20), ("odd", 1 << 20)]
)
def test_what_is_left_out_of_the_search_would_not_have_been_chosen(name, cache):
    model, shape = odd_network() if name == "odd" else (build(name), input_shape(name))
    randomise(model, 0)
    prune(model, "4x1", 0.1)
    graph = optimize(from_torch(model, (torch.randn(1, *shape),)))
    found = []

    class Planner(_chains.Planner):
        def best(self):
            best = super().best()
            found.extend([best, Whole(self.builder, self.operations).best()])
            return best

    class Whole(_chains.Planner):
        def _fits(self, rows, windowed, band):
            return True

        def _at_least(self, first, rows, steps, windows, band):
            return 0.0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_chains, "Planner", Planner)
        patch.setattr(_chains, "WORTH", 1.0)  # so that there are some
        plan_graph(graph, replace(TARGETS["x86-64-avx512"], cache_bytes=cache))
    chains, whole = ([(each.first, each.last, each.windowed, each.band) for each in best.chains] for best in found)
    assert whole
    assert chains == whole


@settings(max_examples=examples(200), deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([1, 2]), st.integers(-2, 0), st.integers(0, 2)), min_size=1, max_size=4),
    st.integers(4, 30),
    st.integers(1, 8),
    st.sampled_from([1, 2, 4]),
    st.data(),
)
def test_every_row_is_computed_once_and_is_there_when_it_is_read(uses, height, band, grain, data):
    """A chain of operations with any windows: a model of the windows' contents, row by row."""
    heights = [height * grain]
    for step, _, _ in reversed(uses):
        heights.insert(0, heights[0] * step)
    chain = [Rows((), image(0, heights[0]))]
    for i, (step, above, below) in enumerate(uses):
        own = data.draw(st.sampled_from([1, grain]))
        chain.append(Rows((Use(image(i, heights[i]), step, above, below),), image(i + 1, heights[i + 1]), own))
    windowed = [True] * len(uses) + [False]
    last_grain = chain[-1].grain
    first = data.draw(st.integers(0, heights[-1] // last_grain - 1)) * last_grain
    last = data.draw(st.integers(first // last_grain + 1, heights[-1] // last_grain)) * last_grain
    plan = schedule(chain, windowed, first, last, band * last_grain)
    windows: list[dict[int, int | str]] = [{} for _ in uses]  # slot -> image row, or "zero"
    written: list[int] = []
    for shares in plan.bands:
        bases = {share.operation: share.base for share in shares}
        for share in shares:
            i = share.operation
            if windowed[i]:
                old = dict(windows[i])
                for row in range(*share.keep):
                    assert old[row - share.before] == row
                    windows[i][row - share.base] = row
                for row in (*range(*share.top), *range(*share.bottom)):
                    windows[i][row - share.base] = "zero"
            for row in range(*share.rows):
                for use in chain[i].uses:
                    for wanted in range(*use.rows(row, row + 1)):
                        slot = wanted - bases[i - 1]
                        inside = 0 <= wanted < heights[i - 1]
                        assert windows[i - 1][slot] == (wanted if inside else "zero")
                        assert 0 <= slot < plan.capacity[i - 1]
                if windowed[i]:
                    windows[i][row - share.base] = row
                    assert 0 <= row - share.base < plan.capacity[i]
                else:
                    written.append(row)
    assert written == list(range(first, last))
    band = min(band * last_grain, heights[-1])
    least = least_rows(chain, band)
    assert all(least[i] <= rows for i, rows in schedule(chain, windowed, 0, heights[-1], band).capacity.items())


@pytest.mark.parametrize("pool", [nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AvgPool2d(3, 1)])
def test_pools_after_a_relu_are_windows_and_agree_with_torch(pool):
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), pool).eval()
    x = torch.randn(1, 3, 21, 34)
    plan = plan_of(model, x, cache=1 << 20)
    assert not any("pool_" in step.kernel.name and "maxpool" not in step.kernel.name for step in plan.steps)
    with torch.no_grad():
        torch.testing.assert_close(CompiledModel(plan, 0.0)(x), model(x), atol=1e-5, rtol=1e-5)
    (twin,) = run_plan(plan, x[0].numpy())
    with torch.no_grad():
        np.testing.assert_allclose(twin, model(x)[0].numpy(), atol=1e-5)


def test_a_pool_of_values_that_may_be_negative_keeps_its_border_out():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.MaxPool2d(3, 2, 1)).eval()
    with torch.no_grad():
        model[0].bias.fill_(-9.0)
    x = torch.randn(1, 1, 9, 9)
    with torch.no_grad():
        torch.testing.assert_close(CompiledModel(plan_of(model, x), 0.0)(x), model(x), atol=1e-5, rtol=1e-5)
