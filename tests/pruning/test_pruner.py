"""The pruner's life cycle: make, step, finalize; the pattern is what `select` says."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from flexgroup import Cubic, FlexgroupError, Groups, OneShot, Pruner, select
from flexgroup.pruning import finalize, prune, weight_matrices

ALIGNMENTS = [None, "rows", "cols"]
BUDGETS = ["line", "layer", "global"]


def made_of_groups(mask: Tensor, groups: Groups) -> bool:
    """Whether the kept weights are whole groups: a readable twin of what selection promises."""
    matrix = mask.numpy()
    if groups.unaligned == "rows":
        return made_of_groups(mask.T, Groups(f"{groups.cols}x{groups.rows}", unaligned="cols"))
    rows, cols = groups.rows, groups.cols
    whole = matrix.shape[0] // rows * rows
    strips = matrix[:whole].reshape(-1, rows, matrix.shape[1])
    if matrix[whole:].any() or (strips.any(1) != strips.all(1)).any():
        return False
    if groups.unaligned is None:
        wide = matrix.shape[1] // cols * cols
        blocks = strips[:, 0, :wide].reshape(len(strips), -1, cols)
        return not strips[:, :, wide:].any() and bool((blocks.any(2) == blocks.all(2)).all())
    runs = [len(run) for strip in strips[:, 0] for run in "".join(".#"[int(kept)] for kept in strip).split(".")]
    return all(length % cols == 0 for length in runs)


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("unaligned", ALIGNMENTS)
@pytest.mark.parametrize("size", ["4x1", "2x2", "1x3"])
def test_a_pruned_network_has_whole_groups_and_the_sparsity_asked_for(
    make_net, images, size: str, unaligned: str | None, budget: str
) -> None:
    model, groups = make_net(), Groups(size, unaligned)
    pruner = Pruner(model, groups, 0.8, budget=budget)
    masked = model.eval()(images)
    pruner.finalize()
    total = sum(mask.numel() for mask in pruner.masks.values())
    slack = groups.weights * len(pruner.layers) * 2 / total  # half a group in each of at most 4 matrices
    assert pruner.sparsity == pytest.approx(0.8, abs=slack)
    for name, mask in pruner.masks.items():
        weight = model.get_submodule(name).weight
        assert type(model.get_submodule(name)) in (nn.Conv2d, nn.Linear)
        assert isinstance(weight, nn.Parameter)
        assert torch.equal(weight.reshape(mask.shape) != 0, mask)
        assert not torch.signbit(weight[weight == 0]).any()
        part = mask.shape[0] // (2 if name == "grouped" else 1)
        assert all(made_of_groups(piece, groups) for piece in mask.split(part))
    assert torch.equal(model(images), masked)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(4, 20),
    st.integers(4, 20),
    st.sampled_from(["1x1", "4x1", "2x2", "1x4"]),
    st.sampled_from(ALIGNMENTS),
    st.sampled_from(BUDGETS),
    st.floats(0.05, 0.95),
    st.integers(0, 9),
)
def test_the_pruner_keeps_what_select_keeps(
    rows: int, cols: int, size: str, unaligned: str | None, budget: str, sparsity: float, seed: int
) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(cols, rows), nn.Linear(rows, cols), nn.Linear(cols, 2))
    groups = Groups(size, unaligned)
    scores = {str(i): model[i].weight.detach().abs().numpy() for i in range(2)}
    expected = select(scores, groups, keep=1 - sparsity, budget=budget).masks
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        masks = Pruner(model, groups, sparsity, budget=budget).masks
    assert all(np.array_equal(masks[name].numpy(), expected[name]) for name in expected)


def test_the_default_schedule_prunes_at_once_and_never_again(make_net, train) -> None:
    model = make_net()
    pruner = Pruner(model, Groups("4x1"), 0.5)
    first = pruner.masks
    assert pruner.sparsity == pytest.approx(0.5, abs=1e-3)
    train(model, torch.optim.SGD(model.parameters(), lr=0.5), 5, pruner)
    assert all(torch.equal(first[name], mask) for name, mask in pruner.masks.items())


def test_a_later_one_shot_leaves_the_network_as_it_is_until_then(make_net, images) -> None:
    model = make_net().eval()
    dense = model(images)
    pruner = Pruner(model, Groups("4x1"), 0.5, schedule=OneShot(at=2))
    pruner.step()
    assert pruner.sparsity == 0.0
    assert torch.equal(model(images), dense)
    pruner.step()
    assert pruner.sparsity == pytest.approx(0.5, abs=1e-3)


def test_the_sparsity_follows_a_cubic_schedule_to_its_end(make_net) -> None:
    schedule = Cubic(begin=1, end=8, every=3)
    pruner = Pruner(make_net(), Groups("1x1"), 0.9, schedule=schedule)
    course = [pruner.sparsity]
    for _ in range(10):
        pruner.step()
        course.append(pruner.sparsity)
    held = [0, 0, 0, 0, 4, 4, 4, 7, 8, 8, 8]  # the last step at which the groups were chosen
    assert course == pytest.approx([schedule.sparsity(step, 0.9) if step else 0.0 for step in held], abs=1e-3)
    assert course[-1] == pytest.approx(0.9, abs=1e-3)


def test_a_schedule_of_your_own_is_not_asked_after_its_last_step(make_net) -> None:
    class EveryStep:
        last = 2

        def sparsity(self, step: int, final: float) -> float:
            return final * min(step, 3) / 2

        def chooses(self, step: int) -> bool:
            return True

    pruner = Pruner(make_net(), Groups("1x1"), 0.6, schedule=EveryStep())
    course = []
    for _ in range(4):
        pruner.step()
        course.append(pruner.sparsity)
    assert course == pytest.approx([0.3, 0.6, 0.6, 0.6], abs=1e-3)


def test_pruned_weights_come_back_if_they_win_a_later_choice_and_not_after_the_last() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    pruner = Pruner(model, Groups("1x1"), 0.5, schedule=Cubic(0, 2, 1, initial=0.5))
    assert model[0].weight.tolist() == [[0.0, 0.0], [3.0, 4.0]]
    for expected in ([[0.0, 2.0], [0.0, 4.0]], [[0.0, 2.0], [0.0, 4.0]]):
        with torch.no_grad():
            model[0].parametrizations.weight.original[1, 0] = 0.5
        pruner.step()
        assert model[0].weight.tolist() == expected
    with torch.no_grad():
        model[0].parametrizations.weight.original[0, 0] = 9.0
    pruner.step()
    assert model[0].weight.tolist() == [[0.0, 2.0], [0.0, 4.0]]


def test_gradients_reach_the_kept_weights_only(make_net, images, labels) -> None:
    model = make_net()
    pruner = Pruner(model, Groups("2x1", "rows"), 0.7)
    nn.functional.cross_entropy(model(images), labels).backward()
    gradient = model.hidden.parametrizations.weight.original.grad
    assert not gradient[~pruner.masks["hidden"]].any()
    assert gradient[pruner.masks["hidden"]].any()


def test_finalize_twice_is_finalize_once_and_the_pruner_is_done(make_net) -> None:
    model = make_net()
    names = [name for name, _ in model.named_parameters()]
    pruner = Pruner(model, Groups("4x1", "rows"), 0.8)
    pruner.finalize()
    weights = copy.deepcopy(model.state_dict())
    pruner.finalize()
    assert [name for name, _ in model.named_parameters()] == names
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    assert pruner.sparsity == pytest.approx(0.8, abs=1e-2)
    with pytest.raises(FlexgroupError, match=r"step\(\) after finalize\(\): the weights are plain again"):
        pruner.step()
    with pytest.raises(FlexgroupError, match=r"load_state_dict\(\) after finalize\(\)"):
        pruner.load_state_dict(pruner.state_dict())


def test_finalizing_a_copy_leaves_the_original_in_training(make_net, images) -> None:
    model = make_net().eval()
    pruner = Pruner(model, Groups("4x1", "rows"), 0.8, schedule=OneShot(at=1))
    pruner.step()
    duplicate = copy.deepcopy(model)
    finalize(duplicate)
    assert type(duplicate.hidden) is nn.Linear
    assert torch.equal(model(images), duplicate(images))
    pruner.finalize()
    assert torch.equal(model(images), duplicate(images))


def test_another_parametrization_on_top_of_a_mask_must_go_first(make_net) -> None:
    model = make_net()
    pruner = Pruner(model, Groups("1x1"), 0.5)
    nn.utils.parametrize.register_parametrization(model.hidden, "weight", nn.Identity())
    with pytest.raises(FlexgroupError, match=r"layer 'hidden': another parametrization lies on top of its mask"):
        pruner.finalize()


def test_no_sparsity_keeps_every_weight_even_those_that_no_group_covers() -> None:
    model = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 2))
    prune(model, Groups("4x1"), 0.0)
    assert (model[0].weight != 0).all()


def test_prune_is_the_pruner_in_one_call(make_net) -> None:
    model, twin = make_net(), make_net()
    prune(model, Groups("4x1", "rows"), 0.9, budget="layer", ignore=["hidden"])
    Pruner(twin, Groups("4x1", "rows"), 0.9, budget="layer", ignore=["hidden"]).finalize()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    assert (model.hidden.weight != 0).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_weights_of_any_precision_are_pruned_and_keep_it(make_net, dtype: torch.dtype) -> None:
    model = make_net().to(dtype)
    prune(model, Groups("4x1", "rows"), 0.75)
    assert model.hidden.weight.dtype == dtype
    kept = sum(int((matrix != 0).sum()) for matrix in weight_matrices(model).values())
    assert kept == pytest.approx(0.25 * (16 * 72 + 24 * 72 + 20 * 24), abs=4)


def test_channels_last_weights_are_pruned_alike(make_net) -> None:
    model, twin = make_net().to(memory_format=torch.channels_last), make_net()
    for network in (model, twin):
        prune(network, Groups("4x1", "rows"), 0.9)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_a_criterion_is_a_name_or_a_function_of_weight_and_gradient(make_net, images, labels) -> None:
    by_name, by_function = make_net(), make_net()
    prune(by_name, Groups("4x1", "rows"), 0.8, criterion="squared")
    prune(by_function, Groups("4x1", "rows"), 0.8, criterion=lambda weight, gradient: weight**2)
    assert torch.equal(by_name.hidden.weight, by_function.hidden.weight)

    model = make_net()
    nn.functional.cross_entropy(model(images), labels).backward()
    taylor = (model.hidden.weight * model.hidden.weight.grad).abs().detach()
    pruner = Pruner(
        model,
        Groups("1x1"),
        0.5,
        targets=["hidden"],
        criterion=lambda weight, gradient: (weight * gradient).abs(),
    )
    kept = pruner.masks["hidden"]
    assert taylor[kept].min() >= taylor[~kept].max()


def test_a_layer_that_loses_everything_is_warned_about_by_name() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2))
    with torch.no_grad():
        model[1].weight.mul_(1e-3)
    with pytest.warns(UserWarning, match=r"no weight is left in '1': .*use a lower sparsity, budget='layer'"):
        prune(model, Groups("1x1"), 0.75)


def test_the_pruner_tells_where_it_stands(make_net) -> None:
    pruner = Pruner(make_net(), Groups("4x1", "rows"), 0.9, schedule=Cubic(0, 20, 5))
    assert repr(pruner) == (
        "Pruner(4x1 unaligned rows, budget='global', sparsity 0.000 of 0.900 at step 0 of 20, 3 layers, 3360 weights)"
    )
    pruner.finalize()
    assert repr(pruner).endswith("weights, finalized)")


@pytest.mark.parametrize("sparsity", [1.0, -0.1, float("nan"), "0.5", True])
def test_a_sparsity_outside_0_to_1_is_refused(make_net, sparsity: object) -> None:
    with pytest.raises(FlexgroupError, match=r"^sparsity .* is not in \[0, 1\)"):
        Pruner(make_net(), Groups("4x1"), sparsity)


def test_a_sparsity_in_percent_is_refused_with_the_share_to_write(make_net) -> None:
    with pytest.raises(FlexgroupError, match=r"sparsity 95 is not in \[0, 1\); it is a share, write 0.95 for 95 %"):
        Pruner(make_net(), Groups("4x1"), 95)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"budget": "row"}, r"budget='row' is not known; use one of 'line', 'band', 'layer', 'global'"),
        ({"criterion": "size"}, r"criterion 'size' is not known; use one of \['fisher', .*\] or a function"),
        ({"criterion": 3}, r"criterion 3 is not a function of \(weight, gradient\)"),
        (
            {"criterion": lambda w, g: w.sum()},
            r"layer 'body.0': the criterion gave \(\), it must give .* \(16, 72\)",
        ),
        ({"criterion": lambda w, g: w}, r"layer 'body.0': negative scores"),
        ({"groups": "4x1"}, r"groups='4x1' is not a Groups; write for example Groups\('4x1'"),
        ({"schedule": Cubic(0, 5, 1, initial=0.9)}, r"begins above the final sparsity 0.5"),
    ],
)
def test_bad_arguments_are_refused_and_change_nothing(make_net, options: dict[str, object], text: str) -> None:
    model = make_net()
    with pytest.raises(FlexgroupError, match=text):
        Pruner(model, **{"groups": Groups("4x1"), "sparsity": 0.5, **options})
    assert not any("parametrizations" in name for name, _ in model.named_parameters())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("schedule", [OneShot(), OneShot(at=7)])
def test_weights_that_are_not_finite_are_refused_by_layer(make_net, value: float, schedule: OneShot) -> None:
    model = make_net()
    with torch.no_grad():
        model.grouped.weight[3, 0, 1] = value
    with pytest.raises(FlexgroupError, match=r"layer 'grouped': 3 of its 1728 weights are NaN or infinite"):
        Pruner(model, Groups("4x1"), 0.5, schedule=schedule)
    assert not any("parametrizations" in name for name, _ in model.named_parameters())


def test_a_network_that_diverges_keeps_its_pattern(make_net) -> None:
    model = make_net()
    pruner = Pruner(model, Groups("4x1"), 0.5, schedule=Cubic(0, 4, 1, initial=0.2))
    before = pruner.masks
    with torch.no_grad():
        model.hidden.parametrizations.weight.original[0, 0] = float("nan")
    with pytest.raises(FlexgroupError, match=r"layer 'hidden': 1 of its 480 weights .*nothing was changed"):
        pruner.step()
    assert pruner.steps == 0
    assert all(torch.equal(before[name], mask) for name, mask in pruner.masks.items())


def test_limits_and_costs_are_given_by_layer_name_and_reach_every_convolution_group() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=2), nn.Conv2d(8, 16, 3))
    with torch.no_grad():
        model[2].weight.mul_(100)
    pruner = Pruner(model, Groups("2x1", unaligned="rows"), 0.5, limits={"1": (0.3, 1.0)}, targets=["1", "2"])
    assert pruner.masks["1"].float().mean() >= 0.3
    pruner.finalize()
    with pytest.raises(FlexgroupError, match=r"limits names 'head', which is not pruned; the layers are '1', '2'"):
        Pruner(model, Groups("2x1"), 0.5, limits={"head": (0, 1)}, targets=["1", "2"])
    with pytest.raises(FlexgroupError, match=r"cost and scores must name the same layers"):
        Pruner(model, Groups("2x1"), 0.5, cost={"1": 2.0}, targets=["1", "2"])


def test_columns_can_be_ordered_with_the_input_channel_changing_fastest() -> None:
    model = nn.Sequential(nn.Conv2d(8, 4, 3, bias=False))
    with torch.no_grad():
        model[0].weight.fill_(0.01)
        model[0].weight[:, 4:8, 1, 2] = 1.0
    pruner = Pruner(model, Groups("1x4", unaligned="cols"), 1 - 4 / 72, targets=["0"], order="ky-kx-ic")
    kept = pruner.masks["0"].reshape(4, 8, 3, 3)
    assert kept[:, 4:8, 1, 2].all()
    assert kept.sum() == 16
    with pytest.raises(FlexgroupError, match=r"order='kx' of columns is not known; use one of 'ic-ky-kx', 'ky-kx-ic'"):
        Pruner(model, Groups("1x4"), 0.5, targets=["0"], order="kx")


@pytest.mark.parametrize("size", ["2:4", "1xK", "Mx1"])
def test_other_patterns_of_the_field_are_one_argument_away(size: str) -> None:
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8, 10))
    prune(model, Groups(size), 0.5, targets=["1"])
    matrix = model[1].weight.detach().reshape(8, -1)
    assert (matrix == 0).float().mean() == 0.5
    if size == "1xK":
        assert ((matrix == 0).all(dim=1) | (matrix != 0).all(dim=1)).all()
