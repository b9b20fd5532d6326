"""Permuted networks compute the same, and their groups keep no less."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from flexgroup import FlexgroupError, Groups, Pruner, select
from flexgroup.pruning import permute, weight_matrices
from flexgroup.pruning._swaps import Side, descend
from flexgroup.pruning._wires import exchanges
from flexgroup.zoo import resnet20


class Varied(nn.Module):
    """Additions, gates, concatenations, slices, zero channels, depthwise and grouped convolutions, flattening."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.back, self.gate = nn.Conv2d(12, 12, 1), nn.Linear(12, 12)
        self.left, self.right = nn.Conv2d(12, 8, 1), nn.Conv2d(12, 8, 3, padding=1, bias=False)
        self.mixed = nn.Conv2d(16, 16, 3, padding=1)
        self.wide, self.grouped = nn.Conv2d(20, 16, 1), nn.Conv2d(16, 16, 3, groups=2)
        self.inner, self.classifier = nn.Linear(64, 24), nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        y = self.back(F.silu(self.depthwise(x))) + x
        y = y * torch.sigmoid(self.gate(y.mean((2, 3))))[:, :, None, None]
        z = F.max_pool2d(F.relu(self.mixed(torch.cat([self.left(y), self.right(y)], 1))), 2)
        z = F.pad(z, (0, 0, 0, 0, 2, 2)) + F.pad(z, (0, 0, 0, 0, 4, 0))
        z = self.grouped(F.relu(self.wide(z)))[:, :, :2]
        return self.classifier(F.relu(self.inner(z.flatten(1))))


def lively(model: nn.Module, seed: int = 0) -> nn.Module:
    """In eval mode, with weights and batch-norm statistics that tell channels apart."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator)
            value.copy_(noise.abs() + 0.5 if name.endswith("running_var") else noise / max(1, value[0].numel()) ** 0.5)
    return model.eval()


def kept(model: nn.Module, groups: Groups, sparsity: float, targets: list[str] | None = None) -> float:
    scores = {}
    for name, matrix in weight_matrices(model, targets).items():
        parts = getattr(model.get_submodule(name), "groups", 1)
        scores |= {f"{name}[{i}]": part.abs().double().numpy() for i, part in enumerate(matrix.chunk(parts))}
    return select(scores, groups, keep=1 - sparsity).score / sum(matrix.sum() for matrix in scores.values())


@pytest.mark.parametrize("size", ["4x1", "2x2", "1x4"])
@pytest.mark.parametrize("make", [Varied, lambda: resnet20(width=8)], ids=["varied", "resnet20"])
def test_the_network_computes_the_same_and_groups_keep_more(make, size: str) -> None:
    model = lively(make())
    x = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    before, dense = model(x), copy.deepcopy(model)
    report = permute(model, (x,), Groups(size), 0.8, kicks=1)
    assert torch.allclose(model(x), before, atol=1e-5 * before.abs().max().item())
    assert report.moved > 0
    assert report.after > report.before
    assert report.before == pytest.approx(kept(dense, Groups(size), 0.8), rel=1e-6)
    assert report.after == pytest.approx(kept(model, Groups(size), 0.8), rel=1e-6)
    model.train(), dense.train()
    assert torch.allclose(model(x), dense(x), atol=1e-4)


@pytest.mark.parametrize("groups", [Groups("2x1", "rows"), Groups("2x2", "cols"), Groups("2x2", "free")], ids=str)
def test_unaligned_groups_keep_no_less(groups: Groups) -> None:
    model = lively(resnet20(width=8))
    dense = copy.deepcopy(model)
    report = permute(model, (torch.zeros(2, 3, 8, 8),), groups, 0.9, kicks=0)
    assert report.after == pytest.approx(kept(model, groups, 0.9), rel=1e-6)
    assert report.after >= report.before == pytest.approx(kept(dense, groups, 0.9), rel=1e-6)


def test_a_small_network_gets_the_best_of_all_orders() -> None:
    for seed in range(4):
        model = lively(nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2)), seed)
        report = permute(model, (torch.zeros(2, 3),), Groups("2x1"), 0.5, targets=["0"], kicks=30)
        scores = model[0].weight.detach().abs().double().numpy()
        best = max(
            select({"0": scores[list(order)]}, Groups("2x1"), keep=0.5).score
            for order in itertools.permutations(range(6))
        )
        assert report.after * scores.sum() == pytest.approx(best, rel=1e-6)


def value(matrix: np.ndarray, extent: int, price: float) -> float:
    """A readable twin: cut rows into blocks, sum each, and count what is above the price."""
    blocks = [matrix[start : start + extent].sum(0) for start in range(0, len(matrix) - extent + 1, extent)]
    return sum(float(np.maximum(block - price, 0).sum()) for block in blocks)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 9), st.integers(1, 5), st.integers(2, 4), st.integers(1, 4), st.integers(0, 999))
def test_gains_are_what_exchanging_the_rows_gains(
    channels: int, width: int, extent: int, others: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    entries = random.random((channels, width, others))
    places = random.permutation(channels)[: max(2, channels - 1)]
    side = Side(entries, extent, 0.6 * extent, places)
    order = np.arange(channels)
    for _ in range(3):
        now = value(entries[order].reshape(-1, others), extent, side.price)
        assert side.value == pytest.approx(now)
        one = int(random.integers(len(places) - 1))
        partners = np.setdiff1d(np.arange(len(places)), [one])
        gains = np.zeros(len(partners))
        side.add_gains(one, partners, gains)
        for index, other in enumerate(partners):
            trial = order.copy()
            trial[[places[one], places[other]]] = trial[[places[other], places[one]]]
            after = value(entries[trial].reshape(-1, others), extent, side.price)
            assert gains[index] == pytest.approx(after - now, abs=1e-9)
        side.exchange(one, len(places) - 1)
        p, q = places[one], places[-1]
        order[[p, q]] = order[[q, p]]


@pytest.mark.parametrize("channels", [12, 600])
def test_descending_stands_still_where_no_exchange_gains_and_says_what_it_did(channels: int) -> None:
    random = np.random.default_rng(0)
    entries = random.random((channels, 1, 20)) ** 4
    side, order = Side(entries, 3, 0.8, np.arange(channels)), np.arange(channels)
    before = side.value
    descend([side], order, 50 if channels == 12 else 2, random)
    assert sorted(order) == list(range(channels))
    assert side.value == pytest.approx(value(entries[order, 0], 3, 0.8))
    assert side.value > 1.1 * before
    for one in range(channels - 1) if channels == 12 else ():
        partners = np.arange(one + 1, channels)
        gains = np.zeros(len(partners))
        side.add_gains(one, partners, gains)
        assert gains.max() <= 1e-6


def moved_together(model: nn.Module, x: Tensor) -> list[tuple[int, set[str]]]:
    sets = exchanges(model.eval(), (x,))
    return [
        (
            entry.count,
            {f"{use.name.removesuffix('.weight')}:{use.axis}" for use in entry.uses if use.name.endswith("weight")},
        )
        for entry in sets
    ]


def test_the_streams_of_a_resnet_move_as_one_as_far_as_zero_channels_allow() -> None:
    found = moved_together(resnet20(width=8), torch.zeros(2, 3, 8, 8))
    counts = [count for count, names in found if "layer3.2.conv2:0" in names]
    assert counts == [8, 8, 16]  # from stage 1 on, from stage 2 on, and stage 3 alone
    first = next(names for count, names in found if "conv1:0" in names)
    assert {"layer1.0.conv2:0", "layer2.0.conv1:1", "layer3.2.conv2:0", "linear:1"} <= first
    assert (16, {"layer2.1.conv1:0", "layer2.1.bn1:0", "layer2.1.conv2:1"}) in found
    assert not any("linear:0" in names for _, names in found)


class Ordered(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.one, self.two = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x)
        if self.kind == "softmax":
            y = y.softmax(1)
        if self.kind == "constant":
            y = y * torch.arange(8.0).reshape(1, 8, 1, 1)
        if self.kind == "twice":
            y = self.two(y)
        if self.kind == "rolled":
            y = y + y.roll(1, 1)
        if self.kind == "concatenated":
            y = torch.cat([y[:, 4:], y[:, 2:6]], 1)
        return self.two(y).mean((2, 3))


@pytest.mark.parametrize("kind", ["softmax", "constant", "twice", "rolled"])
def test_channels_whose_order_may_matter_stay(kind: str) -> None:
    assert moved_together(Ordered(kind), torch.zeros(2, 3, 4, 4)) == []


def test_channels_move_only_with_those_that_pass_through_the_same_values() -> None:
    model = lively(Ordered("concatenated"))
    sets = exchanges(model, (torch.zeros(2, 3, 4, 4),))
    places = [set(entry.places[0].tolist()) for entry in sets if entry.uses[0].name == "one.weight"]
    assert places == [{0, 1}, {2, 3}, {6, 7}]  # unused; used once; used once; 4 and 5 come twice and stay
    x = torch.randn(2, 3, 4, 4)
    before = model(x)
    permute(model, (x,), Groups("2x1"), 0.5, targets=["*"])
    assert torch.allclose(model(x), before, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"groups": Groups("1xK")}, r"groups 1xK aligned are not blocks of a fixed size, and permuting is for those"),
        ({"groups": Groups("2:4")}, r"groups 2:4 aligned are not blocks of a fixed size"),
        ({"groups": Groups("16x1")}, r"groups of 16x1 do not fit its 8x8 weight matrix"),
        ({"budget": "band"}, r"budget='band' is not known here; use one of 'line', 'layer', 'global'"),
        ({"criterion": "taylor"}, r"layer 'two': criterion 'taylor' has gathered no gradients"),
        ({"sparsity": 1.0}, r"sparsity 1.0 is not in \[0, 1\)"),
        (
            {"example": (torch.zeros(2, 9, 4, 4),)},
            r"the model cannot be exported, so its channels cannot be followed: .+",
        ),
    ],
)
def test_what_cannot_be_permuted_says_why_and_changes_nothing(options: dict[str, object], text: str) -> None:
    model = Ordered("plain")
    before = copy.deepcopy(model.state_dict())
    given = {"example": (torch.zeros(2, 3, 4, 4),), "groups": Groups("2x1"), "sparsity": 0.5, **options}
    with pytest.raises(FlexgroupError, match=text):
        permute(model, targets=["two"], **given)
    assert all(torch.equal(before[name], entry) for name, entry in model.state_dict().items())


def test_a_masked_model_is_refused() -> None:
    model = Ordered("plain")
    Pruner(model, Groups("2x1"), 0.5, targets=["two"])
    with pytest.raises(
        FlexgroupError, match=r"the weights of 'two' are parametrized; permute before the Pruner is made"
    ):
        permute(model, (torch.zeros(2, 3, 4, 4),), Groups("2x1"), 0.5, targets=["two"])
