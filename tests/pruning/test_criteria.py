"""Criteria that average over steps: what they average, what they choose, and how they are saved."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flexgroup import Cubic, FlexgroupError, Groups, OneShot, Pruner
from flexgroup.pruning import Constant, Fisher, Movement, Taylor, Wanda, sensitivities
from flexgroup.pruning._columns import column_squares
from flexgroup.pruning._targets import find_layers

ELEMENT: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "taylor": lambda w, g: (w * g).abs(),
    "fisher": lambda w, g: g**2,
    "movement": lambda w, g: -w * g,
}
FINAL: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "taylor": lambda w, mean: mean,
    "fisher": lambda w, mean: w**2 * mean / 2,
    "movement": lambda w, mean: mean,
}
CLASSES = {"taylor": Taylor, "fisher": Fisher, "movement": Movement}


def chosen(scores: dict[str, Tensor], groups: Groups, sparsity: float, budget: str = "global") -> dict[str, Tensor]:
    """What `select` keeps of these scores, lifted above zero."""
    from flexgroup import select

    lowest = min(float(matrix.min()) for matrix in scores.values())
    lifted = {name: (matrix.double() - lowest).numpy() for name, matrix in scores.items()}
    masks = select(lifted, groups, keep=1 - sparsity, budget=budget).masks
    return {name: torch.from_numpy(mask) for name, mask in masks.items()}


@pytest.mark.parametrize("decay", [0.0, 0.9])
@pytest.mark.parametrize("name", ELEMENT)
def test_gradients_are_averaged_over_steps_and_the_best_groups_stay(make_net, images, labels, name, decay) -> None:
    model, layers = make_net(), ("body.0", "hidden")
    pruner = Pruner(
        model, Groups("2x1", "rows"), 0.6, schedule=OneShot(at=4), criterion=CLASSES[name](decay=decay), targets=layers
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    means: dict[str, Tensor] = {}
    for step in range(1, 5):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        weights = {layer: model.get_submodule(layer).parametrizations.weight.original for layer in layers}
        for layer, weight in weights.items():
            value = ELEMENT[name](weight.detach(), weight.grad).flatten(1)
            share = max(1 - decay, 1 / step)
            means[layer] = value if step == 1 else (1 - share) * means[layer] + share * value
        scores = {k: FINAL[name](weights[k].detach().flatten(1), mean) for k, mean in means.items()}
        pruner.step()
    expected = chosen(scores, Groups("2x1", "rows"), 0.6)
    kept = {layer: float((scores[layer] * mask).sum()) for layer, mask in expected.items()}
    found = {layer: float((scores[layer] * mask).sum()) for layer, mask in pruner.masks.items()}
    assert sum(found.values()) == pytest.approx(sum(kept.values()), rel=1e-5)
    assert all((mask == expected[layer]).float().mean() > 0.99 for layer, mask in pruner.masks.items())


def column_squares_twin(module: nn.Conv2d, x: Tensor) -> Tensor:
    """By what comes out of convolutions whose weight is one entry."""
    result = torch.zeros(module.groups, module.weight[0].numel())
    for column in range(result.shape[1]):
        probe = copy.deepcopy(module)
        probe.bias = None
        probe.weight.data.zero_().flatten(1)[:, column] = 1.0
        outputs = probe(x).detach().square().mean((0, 2, 3))
        result[:, column] = outputs.reshape(module.groups, -1)[:, 0]
    return result


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(4, 6, 3, padding=1),
        nn.Conv2d(4, 6, (1, 3), stride=2, dilation=(1, 2), padding=(0, 1), groups=2),
        nn.Conv2d(4, 6, 3, padding="same", padding_mode="circular"),
    ],
)
def test_wandas_norms_are_of_the_inputs_that_meet_each_column(module: nn.Conv2d) -> None:
    x = torch.randn(5, 4, 8, 7, generator=torch.Generator().manual_seed(0))
    (layer,) = find_layers(nn.Sequential(module), ["0"])
    assert torch.allclose(column_squares(layer, x), column_squares_twin(module, x), atol=1e-5)


def test_wanda_watches_a_layers_inputs_in_training_and_stops_at_the_last_choice(make_net, images, labels) -> None:
    model = make_net()
    duplicate: nn.Module | None = None
    pruner = Pruner(model, Groups("1x1"), 0.5, schedule=OneShot(at=2), criterion=Wanda(decay=0.5), targets=["hidden"])
    seen: list[Tensor] = []
    watch = model.hidden.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        duplicate = copy.deepcopy(model)
        duplicate(images * 9)  # a copy does not count, nor does evaluation
        model.eval()(images * 9)
        model.train()
        pruner.step()
    watch.remove()
    first, second = (x[:16].square().mean(0) for x in (seen[0], seen[3]))
    norms = (0.5 * first + 0.5 * second).sqrt()
    scores = model.hidden.parametrizations.weight.original.detach().abs() * norms
    kept = pruner.masks["hidden"]
    assert scores[kept].min() >= scores[~kept].max()
    assert not model.hidden._forward_pre_hooks


def test_fewer_images_a_batch_make_no_other_average(make_net, images, labels) -> None:
    a = sensitivities(make_net(), images, criterion="wanda", batch_size=48)
    b = sensitivities(make_net(), images, criterion="wanda", batch_size=20)
    assert all(torch.allclose(a[name], b[name], rtol=1e-4) for name in a)


@pytest.mark.parametrize("name", ELEMENT)
def test_sensitivities_are_plain_averages_over_full_batches(make_net, images, labels, name: str) -> None:
    model = make_net()
    before = copy.deepcopy(model.state_dict())
    scores = sensitivities(model, images, labels, name, batch_size=20)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert model.training
    assert model.hidden.weight.grad is None
    model.eval()
    total = torch.zeros_like(model.hidden.weight)
    for start in (0, 20):
        model.zero_grad()
        F.cross_entropy(model(images[start : start + 20]), labels[start : start + 20]).backward()
        total += ELEMENT[name](model.hidden.weight.detach(), model.hidden.weight.grad)
    assert torch.allclose(scores["hidden"], FINAL[name](model.hidden.weight.detach(), total / 2))


def test_a_function_of_the_gradient_gets_that_of_the_mean_loss(make_net, images, labels) -> None:
    model = make_net().eval()
    scores = sensitivities(model, images, labels, lambda w, g: (w * g).abs(), batch_size=24)
    F.cross_entropy(model(images), labels).backward()
    expected = (model.hidden.weight * model.hidden.weight.grad).abs().detach()
    assert torch.allclose(scores["hidden"], expected, atol=1e-7)


@pytest.mark.parametrize("name", ["taylor", "fisher", "movement", "wanda"])
def test_scores_by_layer_prune_at_once(make_net, images, labels, name: str) -> None:
    model = make_net()
    scores = sensitivities(model, images, labels, name)
    expected = chosen(scores, Groups("4x1", "rows"), 0.8, budget="layer")
    pruner = Pruner(model, Groups("4x1", "rows"), 0.8, criterion=scores, budget="layer", ignore=["grouped"])
    del expected["grouped"]
    assert all(torch.equal(mask, expected[layer]) for layer, mask in pruner.masks.items())


def test_movement_keeps_what_moves_away_from_zero() -> None:
    layer = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.5, 0.5, -0.5, -0.5]]))
    x, goal = torch.eye(4), torch.tensor([2.0, 0.0, -2.0, 0.0])
    pruner = Pruner(layer, Groups("1x1"), 0.5, schedule=OneShot(3), criterion="movement", targets=["*"])
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (layer(x)[:, 0] - goal).square().sum().backward()
        optimizer.step()
        pruner.step()
    assert pruner.masks[""].tolist() == [[True, False, True, False]]


@pytest.mark.parametrize("name", ["taylor", "wanda"])
def test_a_resumed_run_goes_on_with_the_same_averages(make_net, train, name: str) -> None:
    def start() -> tuple[nn.Module, Pruner, torch.optim.Optimizer]:
        model = make_net()
        schedule = Cubic(0, 8, 2)
        pruner = Pruner(
            model, Groups("2x1", "rows"), 0.8, schedule=schedule, criterion=name, regrowth="straight-through"
        )
        return model, pruner, torch.optim.SGD(model.parameters(), lr=0.1)

    model, pruner, optimizer = start()
    train(model, optimizer, 5, pruner)
    saved, state = {key: value.clone() for key, value in model.state_dict().items()}, pruner.state_dict()
    assert all(isinstance(value, Tensor) for value in state["averages"].values())
    train(model, optimizer, 5, pruner)
    other, resumed, other_optimizer = start()
    other.load_state_dict(saved)
    resumed.load_state_dict(state)
    train(other, other_optimizer, 5, resumed)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize("name", ["taylor", "fisher", "movement", "wanda"])
def test_in_training_every_criterion_reaches_the_sparsity(make_net, train, name: str) -> None:
    model = make_net()
    pruner = Pruner(model, Groups("2x1", "rows"), 0.75, schedule=Constant(2, 8, 2), criterion=name)
    train(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), 9, pruner)
    assert pruner.sparsity == pytest.approx(0.75, abs=1e-3)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"criterion": "taylor"},
            r"layer 'body.0': criterion 'taylor' has gathered no gradients before the first choice; use a schedule "
            r"that chooses after some training steps, or criterion=flexgroup.pruning.sensitivities\(...\)",
        ),
        ({"criterion": "wanda"}, r"criterion 'wanda' has gathered no inputs before the first choice"),
        ({"criterion": {"hidden": torch.ones(20, 24)}}, r"criterion: it has no scores for 'body.0', 'grouped'; give"),
        (
            {"criterion": {"hidden": torch.ones(24, 20)}, "targets": ["hidden"]},
            r"layer 'hidden': its scores are \(24, 20\), they must be a tensor of \(20, 24\)",
        ),
        (
            {"criterion": {"hidden": torch.full((20, 24), float("nan"))}, "targets": ["hidden"]},
            r"layer 'hidden': its scores are not all finite",
        ),
        (
            {"criterion": "movement", "groups": Groups("1xK"), "schedule": OneShot(2)},
            r"scores of either sign \(movement\) cannot be compared where groups of 1xK differ in size between layers; "
            r"use budget='layer'",
        ),
        (
            {"criterion": "movement", "cost": {"hidden": 1.0}, "schedule": OneShot(2)},
            r"cannot be compared where groups have a cost",
        ),
    ],
)
def test_a_criterion_that_cannot_choose_says_why_and_changes_nothing(make_net, options, text: str) -> None:
    model = make_net()
    with pytest.raises(FlexgroupError, match=text):
        Pruner(model, **{"groups": Groups("2x1"), "sparsity": 0.5, **options})
    assert not any("parametrizations" in name for name, _ in model.named_parameters())


def test_calibration_that_cannot_be_says_why(make_net, images, labels) -> None:
    model = make_net()
    with pytest.raises(FlexgroupError, match=r"criterion 'taylor' needs gradients, and so labels; give them, or use"):
        sensitivities(model, images)
    with pytest.raises(FlexgroupError, match=r"Taylor\(decay=1.0\): decay is a number in \[0, 1\)"):
        Taylor(decay=1.0)
    model.spare = nn.Linear(3, 3)
    model.last = nn.Linear(3, 3)
    for name in ("taylor", "wanda"):
        with pytest.raises(FlexgroupError, match=r"'classifier', 'spare' had no part|'spare' had no part"):
            sensitivities(model, images, labels, name)
    model.hidden.weight.requires_grad_(False)
    with pytest.raises(FlexgroupError, match=r"the weights of 'hidden' take no gradients; set requires_grad, or use"):
        sensitivities(model, images, labels)
