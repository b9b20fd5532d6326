"""A weights file is loaded whole and right, or not at all; and written whole or not at all."""

from __future__ import annotations

import os

import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from torch import nn

from flexgroup import FlexgroupError
from flexgroup.zoo import digits_net, load_weights, resnet20, save_weights


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def refusal(model: nn.Module, path) -> str:
    """The message with which ``path`` is refused, after checking that the model is as before."""
    before = state(model)
    with pytest.raises(FlexgroupError) as error:
        load_weights(model, path)
    assert same(state(model), before)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_was_saved_is_loaded(path):
    saved, loaded = digits_net(), digits_net()
    save_weights(saved, path, {"groups": "4x1"})
    load_weights(loaded, path)
    assert same(state(saved), state(loaded))
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"groups": "4x1"}


def test_odd_memory_layouts_are_stored_plainly(path):
    model = small().to(memory_format=torch.channels_last)
    model[2].weight = nn.Parameter(model[2].weight.detach().transpose(0, 1).contiguous().transpose(0, 1))
    save_weights(model, path)
    loaded = small()
    load_weights(loaded, path)
    assert same(state(model), state(loaded))


def test_shared_weights_are_stored_each(path):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    save_weights(model, path)
    assert sorted(safetensors.torch.load_file(path)) == ["0.bias", "0.weight", "1.bias", "1.weight"]


def test_saving_replaces_the_old_file_and_leaves_no_other(path):
    path.write_bytes(b"old")
    save_weights(small(), path)
    assert os.listdir(path.parent) == [path.name]
    load_weights(small(), path)


def test_a_failed_save_leaves_the_old_file(path, monkeypatch):
    path.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError("disk is full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk is full"):
        save_weights(small(), path)
    assert path.read_bytes() == b"old"
    assert os.listdir(path.parent) == [path.name]


def test_an_unfinished_pruning_is_not_saved(path):
    model = small()
    torch.nn.utils.parametrize.register_parametrization(model[0], "weight", nn.Identity())
    with pytest.raises(FlexgroupError, match=r"0.parametrizations.weight.* call pruner.finalize\(\) first"):
        save_weights(model, path)
    assert not path.exists()


def test_saving_into_an_absent_folder_says_so(tmp_path):
    with pytest.raises(FlexgroupError, match=r"the folder .*absent does not exist; make it first"):
        save_weights(small(), tmp_path / "absent" / "model.safetensors")


def test_the_count_of_batches_may_be_absent(path):
    saved, loaded = small(), small()
    kept = {key: value for key, value in saved.state_dict().items() if "num_batches_tracked" not in key}
    safetensors.torch.save_file(kept, path)
    load_weights(loaded, path)
    assert torch.equal(loaded[0].weight, saved[0].weight)


@pytest.mark.parametrize("nest", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_checkpoints_of_pytorch_are_read(tmp_path, nest, prefix, suffix):
    saved, loaded = small(), small()
    content = {prefix + key: value for key, value in saved.state_dict().items()}
    torch.save({nest: content, "epoch": 3} if nest else content, tmp_path / f"model{suffix}")
    load_weights(loaded, tmp_path / f"model{suffix}")
    assert same(state(saved), state(loaded))


def test_a_prefix_that_is_the_models_own_stays(path):
    saved, loaded = (nn.ModuleDict({"module": small()}) for _ in range(2))
    save_weights(saved, path)
    load_weights(loaded, path)
    assert same(state(saved), state(loaded))


@pytest.mark.parametrize("fraction", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_refused(path, fraction):
    save_weights(small(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(fraction * len(content))])
    message = refusal(small(), path)
    assert message.startswith(f"weights {path}: not a complete safetensors file (")
    assert message.endswith("copy or download it again")


def test_a_foreign_file_is_refused(tmp_path):
    for name in ("text.safetensors", "text.pt"):
        (tmp_path / name).write_text("hello, this is no weights file at all\n" * 40)
    assert "not a complete safetensors file" in refusal(small(), tmp_path / "text.safetensors")
    assert f"weights {tmp_path / 'text.pt'}: not a" in refusal(small(), tmp_path / "text.pt")


@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.99])
def test_a_truncated_checkpoint_is_refused(tmp_path, fraction):
    path = tmp_path / "model.pt"
    torch.save(small().state_dict(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(fraction * len(content))])
    assert f"weights {path}: not a" in refusal(small(), path)


def test_a_checkpoint_with_code_is_refused_unread(tmp_path):
    torch.save(small(), tmp_path / "whole.pt")
    assert "not a checkpoint of plain tensors" in refusal(small(), tmp_path / "whole.pt")
    assert "save model.state_dict() and give that file" in refusal(small(), tmp_path / "whole.pt")


def test_a_checkpoint_without_weights_is_refused(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "model.pt")
    assert "holds no state_dict" in refusal(small(), tmp_path / "model.pt")


def test_another_networks_file_is_refused_with_the_keys(path):
    save_weights(small(), path)
    message = refusal(resnet20(), path)
    assert message == (
        f"weights {path}: the file lacks conv1.weight, bn1.weight, bn1.bias and 94 more and has the "
        "unexpected 0.bias, 0.weight, 1.bias and 6 more; it belongs to another network: check --model"
    )


def test_other_shapes_are_refused_with_both(path):
    save_weights(resnet20(num_classes=100), path)
    message = refusal(resnet20(), path)
    assert "linear.weight is 100x64 in the file and 10x64 in the model" in message
    assert message.endswith("check --model and its width and classes")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_weight_that_is_no_number_is_refused_with_its_name(path, value):
    model = small()
    with torch.no_grad():
        model[2].weight[0, 1] = value
    save_weights(model, path)
    assert "NaN or Inf in 2.weight;" in refusal(small(), path)


def test_whole_numbers_in_place_of_weights_are_refused(path):
    weights = small().state_dict()
    weights["0.weight"] = torch.zeros(4, 2, 3, 3, dtype=torch.int8)
    safetensors.torch.save_file(weights, path)
    assert "not of the model's kind of number: 0.weight (int8);" in refusal(small(), path)


def test_half_precision_weights_are_widened(path):
    weights = {key: value.half() if value.is_floating_point() else value for key, value in small().state_dict().items()}
    safetensors.torch.save_file(weights, path)
    loaded = small()
    load_weights(loaded, path)
    assert loaded[0].weight.dtype == torch.float32
    assert torch.equal(loaded[0].weight, weights["0.weight"].float())


def test_a_path_that_is_no_file_is_refused(tmp_path):
    assert "there is no such file; check the path" in refusal(small(), tmp_path / "absent.safetensors")
    assert "is a folder, not a file; give the weights file in it" in refusal(small(), tmp_path)
    save_weights(small(), tmp_path / "model.safetensors")
    assert refusal(small(), tmp_path).endswith(f"give {tmp_path / 'model.safetensors'}")
    (tmp_path / "weights.h5").write_bytes(b"")
    assert "unknown file type '.h5'; give .safetensors or one of .pt, .pth" in refusal(small(), tmp_path / "weights.h5")
