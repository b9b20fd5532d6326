"""Which layers are pruned, and what their weight matrices are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from flexgroup import FlexgroupError, Groups, Pruner
from flexgroup.pruning import prune, weight_matrices

ONE = Groups("1x1")


def test_by_default_the_first_convolution_depthwise_ones_and_the_classifier_stay_dense(make_net) -> None:
    assert Pruner(make_net(), ONE, 0.5).layers == ("body.0", "grouped", "hidden")


def test_targets_take_exactly_what_they_name_also_what_is_spared_by_default(make_net) -> None:
    assert Pruner(make_net(), ONE, 0.5, targets=["stem", "cl*"]).layers == ("stem", "classifier")
    assert len(Pruner(make_net(), ONE, 0.5, targets=["*"]).layers) == 6


def test_ignore_is_applied_last(make_net) -> None:
    assert Pruner(make_net(), ONE, 0.5, ignore=["hid*"]).layers == ("body.0", "grouped")
    assert Pruner(make_net(), ONE, 0.5, targets=["*"], ignore=["*ed", "*.0"]).layers == (
        "stem",
        "depthwise",
        "hidden",
        "classifier",
    )


def test_only_the_last_linear_layer_is_the_classifier() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    assert Pruner(model, ONE, 0.5).layers == ("0", "2")


def test_a_network_may_be_a_single_layer() -> None:
    layer = nn.Linear(8, 8)
    prune(layer, ONE, 0.5, targets=["*"])
    assert int((layer.weight == 0).sum()) == 32


@pytest.mark.parametrize("option", ["targets", "ignore"])
def test_a_pattern_without_a_match_lists_the_nearest_names(make_net, option: str) -> None:
    with pytest.raises(FlexgroupError) as error:
        Pruner(make_net(), ONE, 0.5, **{option: ["gruped"]})
    assert str(error.value).startswith(f"{option}: 'gruped' matches no convolution or linear layer; the nearest")
    assert "names are 'grouped', " in str(error.value)


def test_one_string_is_not_a_list_of_patterns(make_net) -> None:
    with pytest.raises(FlexgroupError, match=r"targets='stem' is one string; give a list of patterns, \['stem'\]"):
        Pruner(make_net(), ONE, 0.5, targets="stem")


def test_a_network_with_nothing_to_prune_says_so() -> None:
    with pytest.raises(FlexgroupError, match=r"ReLU has no nn.Conv2d or nn.Linear layer"):
        Pruner(nn.ReLU(), ONE, 0.5)
    with pytest.raises(FlexgroupError, match=r"no layer of Linear is left to prune.*name layers in targets"):
        Pruner(nn.Linear(4, 4), ONE, 0.5)


def test_groups_that_do_not_fit_name_the_layer_and_change_nothing(make_net) -> None:
    model = make_net()
    with pytest.raises(FlexgroupError, match=r"layer 'grouped': groups of 16x1 do not fit its 12x72 weight matrix"):
        Pruner(model, Groups("16x1"), 0.5)
    assert type(model.body[0]) is nn.Conv2d
    assert not any("parametrizations" in name for name, _ in model.named_parameters())


def test_a_shared_weight_is_refused_by_name() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2))
    model[1].weight = model[0].weight
    with pytest.raises(FlexgroupError, match=r"layer '0': its weight is shared \(0.weight, 1.weight\)"):
        Pruner(model, ONE, 0.5)


def test_a_second_pruner_on_the_same_layers_is_refused(make_net) -> None:
    model = make_net()
    Pruner(model, ONE, 0.5, targets=["hidden"])
    with pytest.raises(FlexgroupError, match=r"layer 'hidden': its weight is already parametrized"):
        Pruner(model, ONE, 0.5)
    Pruner(model, ONE, 0.5, targets=["grouped"])


def test_a_lazy_layer_has_no_weights_to_prune() -> None:
    with pytest.raises(FlexgroupError, match=r"layer '0' has no weights yet; run the model once"):
        Pruner(nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 2)), ONE, 0.5)


def test_a_weight_matrix_has_output_channels_by_input_channel_ky_kx(make_net) -> None:
    model = make_net()
    matrices = weight_matrices(model)
    assert {name: tuple(matrix.shape) for name, matrix in matrices.items()} == {
        "body.0": (16, 72),
        "grouped": (24, 72),
        "hidden": (20, 24),
    }
    assert matrices["body.0"][5, 2 * 9 + 1 * 3 + 2] == model.body[0].weight[5, 2, 1, 2]
    assert matrices["hidden"].data_ptr() == model.hidden.weight.data_ptr()


def test_weight_matrices_of_a_pruned_network_show_the_zeros(make_net) -> None:
    model = make_net()
    pruner = Pruner(model, ONE, 0.75)
    before = weight_matrices(model)
    assert all(torch.equal(before[name] != 0, mask) for name, mask in pruner.masks.items())
    pruner.finalize()
    after = weight_matrices(model)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_groups_do_not_straddle_convolution_groups(make_net) -> None:
    model = make_net()
    with torch.no_grad():
        model.grouped.weight.fill_(0.01)
        model.grouped.weight[10:14].fill_(1.0)  # the best 4x1 groups, were the 12 + 12 rows one matrix
    prune(model, Groups("4x1", unaligned="rows"), 0.5, targets=["grouped"])
    kept = weight_matrices(model, targets=["grouped"])["grouped"] != 0
    assert (kept[:12].sum(0) % 4 == 0).all()
    assert (kept[12:].sum(0) % 4 == 0).all()
    assert kept[8:12].all()
    assert kept[12:16].all()
