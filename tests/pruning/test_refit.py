"""Refitted weights are the least-squares solution on the layer's inputs, and the pattern stays."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from flexgroup import FlexgroupError, Groups, Pruner
from flexgroup.pruning import prune, refit, weight_matrices
from flexgroup.pruning._least_squares import Equations, solve

EVERY = 1 << 20  # samples: all positions


def lstsq(x: np.ndarray, y: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """A readable twin: each row on its own, by numpy's least squares on the columns that it keeps."""
    weight = np.zeros(kept.shape)
    for row, columns in enumerate(kept):
        weight[row, columns] = np.linalg.lstsq(x[:, columns], y[:, row], rcond=None)[0]
    return weight


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 12), st.sampled_from([0.2, 0.5, 0.9]), st.booleans(), st.integers(0, 999))
def test_rows_with_any_columns_are_solved_at_once(
    rows: int, columns: int, share: float, strips: bool, seed: int
) -> None:
    random = np.random.default_rng(seed)
    kept = random.random((rows, columns)) < share
    if strips:
        kept[:] = kept[:1]
    x, y = random.standard_normal((40, columns)), random.standard_normal((40, rows))
    old = random.standard_normal((rows, columns)) * kept
    equations = Equations.empty(columns, rows, torch.device("cpu"))
    for part in (slice(0, 25), slice(25, 40)):
        equations.add(torch.from_numpy(x[part]), torch.from_numpy(y[part]))
    new = solve(equations, torch.from_numpy(old), torch.from_numpy(kept), ridge=1e-12).numpy()
    assert np.allclose(new, lstsq(x, y, kept), atol=1e-8)
    assert equations.error(torch.from_numpy(new)) == pytest.approx(np.square(y - x @ new.T).sum(), rel=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.01, 10.0), st.integers(0, 999))
def test_ridge_pulls_to_where_the_weights_were(ridge: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    kept = random.random((3, 6)) < 0.6
    x, y, old = random.standard_normal((20, 6)), random.standard_normal((20, 3)), random.standard_normal((3, 6)) * kept
    equations = Equations.empty(6, 3, torch.device("cpu"))
    equations.add(torch.from_numpy(x), torch.from_numpy(y))
    new = solve(equations, torch.from_numpy(old), torch.from_numpy(kept), ridge).numpy()
    pull = np.sqrt(ridge * np.mean(np.square(x).sum(0))) * np.eye(6)
    for row in range(3):  # the same as a plain fit with the pull as further samples
        fit = lstsq(np.concatenate([x, pull]), np.concatenate([y[:, [row]], pull @ old[row, :, None]]), kept[[row]])
        assert np.allclose(new[row], fit[0], atol=1e-8)


CONVOLUTIONS = {
    "plain": nn.Conv2d(4, 8, 3, padding=1),
    "strided": nn.Conv2d(4, 8, 3, stride=2, padding=1, bias=False),
    "oblong": nn.Conv2d(4, 8, (1, 3), stride=(1, 2), dilation=(1, 2), padding=(0, 1)),
    "grouped": nn.Conv2d(4, 8, 3, groups=2, padding="same"),
    "reflecting": nn.Conv2d(4, 8, 3, padding=1, padding_mode="reflect"),
}


@pytest.mark.parametrize("unaligned", [None, "rows"])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_is_fitted_to_its_dense_outputs(name: str, unaligned: str | None) -> None:
    torch.manual_seed(0)
    dense = nn.Sequential(copy.deepcopy(CONVOLUTIONS[name]).requires_grad_(False))
    images = torch.randn(6, 4, 7, 7)
    model = copy.deepcopy(dense)
    prune(model, Groups("2x1", unaligned), 0.6, targets=["0"])
    kept = weight_matrices(model, ["0"])["0"] != 0
    report = refit(model, images, dense, samples=EVERY, ridge=1e-9)
    conv = dense[0]
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    padded = F.pad(images, conv._reversed_padding_repeated_twice, mode=mode)
    targets = dense(images).permute(0, 2, 3, 1).reshape(-1, conv.groups, 8 // conv.groups)
    fitted = weight_matrices(model, ["0"])["0"].reshape(conv.groups, 8 // conv.groups, -1)
    for part, x in enumerate(padded.chunk(conv.groups, 1)):
        columns = F.unfold(x, conv.kernel_size, conv.dilation, 0, conv.stride).transpose(1, 2).flatten(0, 1)
        keep = kept.reshape(fitted.shape)[part]
        if conv.bias is not None:
            columns = torch.cat([columns, torch.ones(len(columns), 1)], 1)
            keep = torch.cat([keep, torch.ones(len(keep), 1, dtype=torch.bool)], 1)
        twin = lstsq(columns.double().numpy(), targets[:, part].double().numpy(), keep.numpy())
        assert np.allclose(fitted[part], twin[:, : fitted.shape[2]], atol=2e-4)
        if conv.bias is not None:
            assert np.allclose(model[0].bias.reshape(conv.groups, -1)[part], twin[:, -1], atol=2e-4)
    error = float((model(images) - dense(images)).square().sum() / dense(images).square().sum())
    assert report[0].after == pytest.approx(error, rel=1e-3)
    assert report[0].after < report[0].before


def test_layers_are_fitted_in_the_order_in_which_they_run_each_after_the_one_before(make_net, images) -> None:
    dense = make_net().eval()
    model = copy.deepcopy(dense)
    prune(model, Groups("4x1", "rows"), 0.7)
    zeros = {name: matrix == 0 for name, matrix in weight_matrices(model).items()}
    before = copy.deepcopy(model)
    report = refit(model, images, dense, samples=EVERY)
    assert [layer.layer for layer in report] == ["body.0", "grouped", "hidden"]
    assert all(torch.equal(matrix == 0, zeros[name]) for name, matrix in weight_matrices(model).items())
    assert all(not torch.equal(model.get_submodule(n).weight, before.get_submodule(n).weight) for n in zeros)
    assert torch.equal(model.stem.weight, dense.stem.weight)
    inputs: dict[str, Tensor] = {}
    model.hidden.register_forward_pre_hook(lambda _, given: inputs.update(mine=given[0]))
    dense.hidden.register_forward_hook(lambda _, __, output: inputs.update(target=output))
    with torch.no_grad():
        error = (model(images) - dense(images)).square().mean()
        assert error < 0.8 * (before(images) - dense(images)).square().mean()
        output = F.linear(inputs["mine"], model.hidden.weight, model.hidden.bias)
        fit = (output - inputs["target"]).square().sum() / inputs["target"].square().sum()
    assert report[-1].after == pytest.approx(float(fit), rel=1e-3)


def test_a_pruner_s_model_is_fitted_under_its_masks(make_net, images) -> None:
    dense = make_net()
    model = copy.deepcopy(dense)
    pruner = Pruner(model, Groups("2x1", "rows"), 0.7)
    plain = copy.deepcopy(dense)
    prune(plain, Groups("2x1", "rows"), 0.7)
    under = model.hidden.parametrizations.weight.original.detach().clone()
    refit(model, images, dense)
    refit(plain, images, dense)
    kept = pruner.masks["hidden"]
    assert torch.equal(model.hidden.parametrizations.weight.original[~kept], under[~kept])
    pruner.finalize()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))
    assert model.training
    assert dense.training
    assert not model.hidden._forward_pre_hooks
    assert not dense.hidden._forward_hooks


def test_tokens_are_positions_and_bias_may_stay() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(12, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x.flatten(2))

    torch.manual_seed(0)
    dense = Tokens().requires_grad_(False)
    model, images = copy.deepcopy(dense), torch.randn(9, 5, 3, 4)
    prune(model, Groups("4x1"), 0.5, targets=["inner"])
    refit(model, images, dense, bias=False, ridge=1e-9)
    assert torch.equal(model.inner.bias, dense.inner.bias)
    x = images.flatten(2).flatten(0, 1)
    twin = lstsq(x.double().numpy(), (x @ dense.inner.weight.T).double().numpy(), (model.inner.weight != 0).numpy())
    assert np.allclose(model.inner.weight, twin, atol=1e-4)


def test_a_layer_that_runs_twice_is_left_as_it_is() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.once = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.once(self.conv(self.conv(x)))

    dense = Twice()
    model = copy.deepcopy(dense)
    prune(model, Groups("2x1"), 0.5, targets=["*"])
    before = model.conv.weight.detach().clone()
    assert [entry.layer for entry in refit(model, torch.randn(4, 4, 5, 5), dense)] == ["once"]
    assert torch.equal(model.conv.weight, before)


def test_what_cannot_be_fitted_is_refused(make_net, images) -> None:
    dense = make_net()
    model = copy.deepcopy(dense)
    with pytest.raises(FlexgroupError, match=r"no weight of these layers is pruned, .* prune the model first"):
        refit(model, images, dense)
    prune(model, Groups("2x1"), 0.5)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(FlexgroupError, match=r"does not have 'body.0', 'grouped', 'hidden' as this one does"):
        refit(model, images, model)
    with pytest.raises(FlexgroupError, match=r"give a copy of the network from before it was pruned"):
        refit(model, images, nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(FlexgroupError, match=r"ridge=0 is not a number above 0"):
        refit(model, images, dense, ridge=0)
    with pytest.raises(FlexgroupError, match=r"samples=0 is not a positive integer"):
        refit(model, images, dense, samples=0)
    with pytest.raises(FlexgroupError, match=r"layer 'body.0': its inputs or outputs are NaN or infinite"):
        refit(model, images * float("nan"), dense)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
