"""Commands take an ONNX file where they take a network."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

onnx = pytest.importorskip("onnx")


@pytest.fixture
def path(tmp_path):
    """A small network with zeros, whose file leaves the batch and the image's size open."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = nn.Sequential(*layers, nn.Linear(8, 5)).eval()
    model[2].weight.data[:4, :6] = 0
    file = tmp_path / "my-net.onnx"
    axes = {"x": {0: "n", 2: "h", 3: "w"}}
    torch.onnx.export(model, (torch.randn(1, 3, 8, 8),), str(file), input_names=["x"], dynamic_axes=axes, dynamo=False)
    return file


def test_bench_times_the_file_beside_onnx_runtime(flexgroup, path):
    pytest.importorskip("onnxruntime")
    document = flexgroup(
        "bench", path, "--input", "1,3,12,12", "--against", "onnxruntime", "--runs", 2, "--json"
    ).document
    assert document["model"] == str(path)
    assert document["input"] == [1, 3, 12, 12]
    assert 0 < document["sparsity"] < 1
    assert [row["engine"] for row in document["latencies"]] == ["flexgroup", "flexgroup, dense", "torch", "onnxruntime"]
    assert all(row["max_difference"] < 1e-4 for row in document["latencies"])


def test_the_file_may_also_be_named_as_the_model(flexgroup, path):
    document = flexgroup("bench", "--model", path, "--input", "2,3,8,8", "--runs", 1, "--json").document
    assert document["input"] == [2, 3, 8, 8]


def test_profile(flexgroup, path):
    document = flexgroup("profile", path, "--input", "1,3,12,12", "--runs", 1, "--json").document
    assert document["rows"]


class TwoHeads(nn.Module):
    """Several outputs, as detectors have."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.boxes, self.scores = (nn.Conv2d(3 if i == 0 else 8, 8, 3) for i in range(3))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        shared = torch.relu(self.trunk(x))
        return self.boxes(shared), 1000 * self.scores(shared).mean((2, 3))


def test_a_network_of_several_outputs(flexgroup, tmp_path):
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    x, file = torch.randn(1, 3, 8, 8), tmp_path / "heads.onnx"
    torch.onnx.export(TwoHeads(), (x,), str(file), input_names=["x"], output_names=["boxes", "scores"], dynamo=False)
    document = flexgroup("bench", file, "--against", "onnxruntime", "--runs", 1, "--json").document
    assert all(row["max_difference"] < 1e-2 for row in document["latencies"])
    assert document["latencies"][0]["max_difference"] > 1e-6, "the second output's, whose numbers are large"
    assert flexgroup("profile", file, "--runs", 1, "--json").document["rows"]
    flexgroup("export", file, "--out", tmp_path / "out")
    assert "float *output0, float *output1" in (tmp_path / "out" / "heads.h").read_text()


def test_export_names_the_functions_after_the_file(flexgroup, path, tmp_path):
    outcome = flexgroup("export", path, "--input", "1,3,12,12", "--out", tmp_path / "out", "--json")
    assert json.loads(outcome.stdout)["name"] == "my_net"
    assert (tmp_path / "out" / "my_net.o").exists()


def test_inspect_counts_the_zeros_of_every_layer(flexgroup, path):
    document = flexgroup("inspect", path, "--json").document
    assert [layer["shape"] for layer in document["layers"]] == [[8, 3, 3, 3], [8, 8, 3, 3], [5, 8]]
    assert [layer["sparsity"] for layer in document["layers"]] == [0, pytest.approx(0.375), 0]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "name one network: --model resnet20, or an ONNX file such as model.onnx"),
        (["{path}", "--model", "resnet20"], "name one network: --model resnet20, or an ONNX file such as model.onnx"),
        (["model.pt"], "'model.pt' is not a .onnx file; give one, or name a network with --model"),
        (["nowhere.onnx"], "nowhere.onnx: there is no such file; check the path"),
        (["{path}"], "input 'x' is declared as (n, 3, h, w), with sizes left open; give them"),
        (["{path}", "--input", "1,4,8,8"], "but shape (1, 4, 8, 8) was given; give one that fits"),
        (["{path}", "--weights", "w.pt", "--input", "1,3,8,8"], "holds its own weights; leave out --weights w.pt"),
    ],
)
@pytest.mark.parametrize("command", ["bench", "profile", "export"])
def test_wrong_input_is_refused_and_changes_nothing(flexgroup, path, tmp_path, command, arguments, reason):
    before = sorted(tmp_path.iterdir())
    given = [argument.format(path=path) for argument in arguments]
    out = ["--out", tmp_path / "out"] if command == "export" else []
    assert reason in flexgroup(command, *given, *out).reason
    assert sorted(tmp_path.iterdir()) == before


def test_a_network_of_several_inputs_is_compiled_in_python(flexgroup, tmp_path):
    value = onnx.helper.make_tensor_value_info
    inputs = [value(name, 1, (1, 3)) for name in ("a", "b")]
    node = onnx.helper.make_node("Add", ["a", "b"], ["y"])
    graph = onnx.helper.make_graph([node], "sum", inputs, [value("y", 1, (1, 3))])
    path = tmp_path / "sum.onnx"
    onnx.save(onnx.helper.make_model(graph), path)
    assert "has 2 inputs; commands take networks of one" in flexgroup("bench", path).reason


def test_onnx_runtime_may_know_only_the_batch_of_the_file(flexgroup, tmp_path):
    pytest.importorskip("onnxruntime")
    value = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "relu", [value("x", 1, (1, 3))], [value("y", 1, (1, 3))])
    path = tmp_path / "relu.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)
    reason = flexgroup("bench", path, "--input", "2,3", "--against", "onnxruntime").reason
    assert f"ONNX Runtime does not run {path} on an input of (2, 3)" in reason
