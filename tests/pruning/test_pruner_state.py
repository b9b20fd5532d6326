"""A run that is stopped and resumed from its saved state goes on as if nothing had happened."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from flexgroup import Cubic, FlexgroupError, Groups, Pruner

GROUPS = Groups("4x1", "rows")
SCHEDULE = Cubic(begin=0, end=12, every=3)


def start(make_net, seed: int = 0) -> tuple[nn.Module, Pruner, torch.optim.Optimizer]:
    model = make_net(seed)
    pruner = Pruner(model, GROUPS, 0.9, schedule=SCHEDULE)
    return model, pruner, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


@pytest.mark.parametrize("stop", [0, 1, 5, 6, 12, 14])
def test_a_resumed_run_ends_with_the_same_weights_and_masks(make_net, train, stop: int) -> None:
    model, pruner, optimizer = start(make_net)
    train(model, optimizer, stop, pruner)
    saved = {name: value.clone() for name, value in model.state_dict().items()}
    state, optimizer_state = pruner.state_dict(), optimizer.state_dict()
    optimizer_state = json_free_copy(optimizer_state)
    train(model, optimizer, 16 - stop, pruner)

    resumed, new_pruner, new_optimizer = start(make_net, seed=7)
    resumed.load_state_dict(saved)
    new_pruner.load_state_dict(state)
    new_optimizer.load_state_dict(optimizer_state)
    assert new_pruner.steps == stop
    train(resumed, new_optimizer, 16 - stop, new_pruner)

    assert all(torch.equal(mask, new_pruner.masks[name]) for name, mask in pruner.masks.items())
    pruner.finalize()
    new_pruner.finalize()
    end, new_end = model.state_dict(), resumed.state_dict()
    assert list(end) == list(new_end)
    assert all(torch.equal(end[name], new_end[name]) for name in end)


def json_free_copy(value: Any) -> Any:
    """A deep copy of an optimizer's state, as saving and loading it would give."""
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: json_free_copy(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [json_free_copy(entry) for entry in value]
    return value


def test_the_state_saves_as_safetensors_and_json(make_net, tmp_path: Path) -> None:
    _, pruner, _ = start(make_net)
    for _ in range(6):
        pruner.step()
    state = pruner.state_dict()
    save_file(state["masks"], tmp_path / "masks.safetensors")
    (tmp_path / "pruner.json").write_text(json.dumps({k: v for k, v in state.items() if k != "masks"}))
    loaded = json.loads((tmp_path / "pruner.json").read_text())
    loaded["masks"] = load_file(tmp_path / "masks.safetensors")

    _, fresh, _ = start(make_net)
    fresh.load_state_dict(loaded)
    assert fresh.steps == 6
    assert all(torch.equal(mask, fresh.masks[name]) for name, mask in pruner.masks.items())
    assert fresh.sparsity == pruner.sparsity > 0.7


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.floats(0.1, 0.9))
def test_masks_of_any_shape_survive_the_round_trip(rows: int, cols: int, sparsity: float) -> None:
    model, twin = nn.Linear(cols, rows), nn.Linear(cols, rows)
    with torch.no_grad():
        model.weight.copy_(torch.randperm(rows * cols).reshape(rows, cols) + 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a layer that loses everything
        pruner = Pruner(model, Groups("1x1"), sparsity, targets=["*"])
    other = Pruner(twin, Groups("1x1"), 0.0, targets=["*"])
    other.load_state_dict(pruner.state_dict())
    assert torch.equal(pruner.masks[""], other.masks[""])


def test_the_models_own_state_alone_brings_the_pattern_back(make_net) -> None:
    model, pruner, _ = start(make_net)
    for _ in range(12):
        pruner.step()
    other, fresh, _ = start(make_net, seed=3)
    other.load_state_dict(model.state_dict())
    fresh.finalize()
    pruner.finalize()
    assert torch.equal(other.hidden.weight, model.hidden.weight)
    assert fresh.sparsity == pytest.approx(0.9, abs=2e-3)


def narrower(state: dict[str, Any]) -> None:
    state["shapes"]["hidden"] = [20, 23]


def fewer(state: dict[str, Any]) -> None:
    del state["shapes"]["hidden"], state["masks"]["hidden"]


def foreign(state: dict[str, Any]) -> None:
    state["shapes"]["head"], state["masks"]["head"] = [1, 8], torch.zeros(1, dtype=torch.uint8)


def torn(state: dict[str, Any]) -> None:
    state["masks"]["hidden"] = state["masks"]["hidden"][:-1]


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (
            narrower,
            r"layer 'hidden': the state's mask is 20x23, its weight matrix is 20x24; give the same model",
        ),
        (fewer, r"the state is of other layers than this pruner's: they differ in 'hidden'; give the same"),
        (foreign, r"they differ in 'head'; give the same"),
        (torn, r"layer 'hidden': the state's mask is damaged; it must be 60 bytes"),
        (
            lambda state: state.update(groups="2x2 aligned"),
            r"the state is of groups 2x2 aligned, this pruner's are 4x1",
        ),
        (lambda state: state.pop("step"), r"this is not the state of a Pruner: it lacks step"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(make_net, damage, text: str) -> None:
    _, pruner, _ = start(make_net)
    for _ in range(6):
        pruner.step()
    state = pruner.state_dict()
    damage(state)
    _, fresh, _ = start(make_net)
    with pytest.raises(FlexgroupError, match=text):
        fresh.load_state_dict(state)
    assert fresh.steps == 0
    assert fresh.sparsity == 0.0
