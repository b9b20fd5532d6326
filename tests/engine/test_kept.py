"""A network is exported and planned once; what is kept serves that very network only, and is checked like any other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import flexgroup
from flexgroup import FlexgroupError
from flexgroup.engine import _compiled, _kept
from flexgroup.engine._cache import this_cache
from flexgroup.engine._costs import Costs, default_costs
from flexgroup.engine._kept import GRAPH, PLAN, Keys, kept, keys_of
from flexgroup.engine._serial import to_bytes
from flexgroup.graph import Clamp
from flexgroup.kernels import F16, F32, host_target

X = torch.linspace(-1, 1, 3 * 9 * 9).reshape(1, 3, 9, 9)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    monkeypatch.setenv("FLEXGROUP_CACHE", str(tmp_path))
    monkeypatch.setattr(_kept, "source_digest", lambda *_: "as they are")  # they may be edited meanwhile
    return tmp_path


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is done from now on: "export" and "plan"."""
    done: list[str] = []
    from flexgroup import graph

    for module, name, word in ((graph, "read_network", "export"), (_compiled, "plan_graph", "plan")):
        original = getattr(module, name)

        def note(*args, original=original, word=word, **options):
            result = original(*args, **options)
            done.append(word)
            return result

        monkeypatch.setattr(module, name, note)
    return done


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1)).eval()


def test_a_network_is_exported_and_planned_once(folder, work):
    first = flexgroup.compile(network(), (X,))
    again = flexgroup.compile(network(), X)
    assert work == ["export", "plan"]
    assert torch.equal(first(X), again(X))
    assert again.error == first.error  # it was checked again


def test_another_thread_count_or_dense_code_is_planned_anew_from_the_same_graph(folder, work):
    outputs = [
        flexgroup.compile(network(), (X,), threads=threads, sparse=sparse)(X)
        for threads, sparse in ((1, True), (2, True), (2, False), (2, True))
    ]
    assert work == ["export", "plan", "plan", "plan"]
    assert all(torch.equal(outputs[0], other) for other in outputs[1:])


def test_other_weights_another_shape_or_another_setting_is_another_network(folder, work):
    model = network()
    flexgroup.compile(model, (X,))
    with torch.no_grad():
        model[0].weight[0, 0, 0, 0] += 1
    compiled = flexgroup.compile(model, (X,))
    assert compiled.error < 1e-4
    flexgroup.compile(model, (X[..., :8],))
    model[0].stride = (2, 2)
    flexgroup.compile(model, (X,))
    assert work == ["export", "plan"] * 4


def test_what_cannot_be_told_is_not_kept(folder, work):
    for _ in range(2):
        model = network()
        model[0].note = iter(())
        flexgroup.compile(model, (X,))
    assert work == ["export", "plan"] * 2
    assert not list(folder.glob("graph-*"))
    assert not list(folder.glob("plan-*"))


def test_a_kept_plan_that_computes_something_else_is_noticed_and_replaced(folder, work):
    good = flexgroup.compile(network(), (X,))
    other = flexgroup.compile(network(1), (X,))
    costs = default_costs(host_target())
    keys = keys_of(network(), (X,), host_target(), threads=1, sparse=True, costs=costs, element=F32)
    this_cache().put(PLAN, keys.plan, to_bytes(other.plan))
    work.clear()
    compiled = flexgroup.compile(network(), (X,))
    assert work == ["export", "plan"]
    assert torch.equal(compiled(X), good(X))
    assert this_cache().get(PLAN, keys.plan) is None
    assert this_cache().get(GRAPH, keys.graph) is None


def test_a_network_that_disagrees_with_torch_is_still_an_error(folder):
    for _ in range(2):
        with pytest.raises(FlexgroupError, match="differs from torch"):
            flexgroup.compile(network(), (X,), tolerance=1e-12)


def test_errors_come_every_time(folder):
    for _ in range(2):
        with pytest.raises(FlexgroupError, match=r"not supported|cannot|no word"):
            flexgroup.compile(nn.LSTM(4, 4), (torch.zeros(1, 4),))
    for _ in range(2):
        with pytest.raises(FlexgroupError, match="is float64"):
            flexgroup.compile(network(), (X.double(),))
    assert not list(folder.glob("graph-*"))


def test_off_exports_every_time(folder, work, monkeypatch):
    monkeypatch.setenv("FLEXGROUP_CACHE", "off")
    for _ in range(2):
        flexgroup.compile(network(), (X,))
    assert work == ["export", "plan"] * 2
    assert keys_of(network(), (X,), host_target(), threads=1, sparse=True, costs=Costs(), element=F32) == Keys()


def test_keys_differ_by_target_threads_zeros_costs_and_element(folder):
    target = host_target()
    settings = [
        {},
        {"threads": 2},
        {"sparse": False},
        {"target": flexgroup.kernels.TARGETS["x86-64"]},
        {"costs": Costs(row=8.0)},
        {"element": F16},
    ]
    usual = {"target": target, "threads": 1, "sparse": True, "costs": Costs(), "element": F32}
    keys = [keys_of(network(), (X,), **(usual | setting)) for setting in settings]
    assert len({key.graph for key in keys}) == 1
    assert len({key.plan for key in keys}) == 6


def test_an_entry_of_another_format_or_kind_is_made_again(folder):
    made = []

    def make() -> Clamp:
        made.append(1)
        return Clamp(0.0)

    assert kept("test", "key", make, Clamp) == kept("test", "key", make, Clamp) == Clamp(0.0)
    assert len(made) == 1
    this_cache().put("test", "key", b"of a version long gone")
    assert kept("test", "key", make, Clamp) == Clamp(0.0)
    this_cache().put("test", "key", to_bytes((1, 2)))
    assert kept("test", "key", make, Clamp) == Clamp(0.0)
    assert len(made) == 3
    assert kept("test", None, make, Clamp) == Clamp(0.0)
    assert len(made) == 4


def test_what_cannot_be_written_is_made_every_time(folder, monkeypatch):
    assert kept("test", "key", lambda: {1, 2}, set) == {1, 2}
    monkeypatch.setattr(_kept, "LARGEST", 100)
    assert len(kept("test", "key", lambda: np.ones(1000), np.ndarray)) == 1000
    assert not list(folder.glob("test-*"))
