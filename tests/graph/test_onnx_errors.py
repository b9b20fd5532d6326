"""What a user reads when an ONNX file cannot become a graph."""

from __future__ import annotations

import contextlib
import importlib
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexgroup import FlexgroupError
from flexgroup.graph import from_onnx
from tests.graph.onnx_models import model_of, node, numbers, onnx

IMAGE = (1, 3, 8, 8)
WEIGHT = {"w": numbers(4, 3, 3, 3)}
CONV = node("Conv", ["x", "w"], ["y"], "conv")


def error_of(model, input_shapes=None):
    with pytest.raises(FlexgroupError) as caught:
        from_onnx(model, input_shapes)
    return str(caught.value)


def small(**changes):
    return model_of(CONV, **{"inputs": {"x": IMAGE}, "weights": WEIGHT, **changes})


def test_all_that_is_not_supported_is_listed_at_once_by_node_operator_and_opset():
    model = model_of(
        node("Conv", ["x", "w"], ["c"], "stem"),
        node("MeanVarianceNormalization", ["c"], ["n"], "norm", axes=[0, 2, 3]),
        node("Relu", ["n"], ["r"], "relu"),
        node("LSTM", ["r2", "k", "k"], ["l"], hidden_size=1),
        node("Reshape", ["r", "shape"], ["r2"], "flat"),
        node("CumSum", ["r2", "axis"], ["e"], "running"),
        node("ReduceMin", ["r"], ["y"], "least", axes=[1]),
        node("Slice", ["r", "last", "first", "axes", "back"], ["z"], "flip"),
        inputs={"x": IMAGE},
        outputs=("y", "z", "e", "l"),
        weights={
            **WEIGHT,
            **{"k": numbers(1, 4, 1), "shape": [1, 4, 36]},
            **{"last": [-1], "first": [-9], "axes": [3], "back": [-1], "axis": np.array(1)},
        },
    )
    model.graph.node.insert(3, model.graph.node.pop(4))
    headline, *lines = error_of(model).splitlines()
    assert headline.startswith("the ONNX model uses 5 operators that are not supported; supported are convolutions,")
    assert lines == [
        "  norm: MeanVarianceNormalization (opset 17): use batch norm, whose statistics are fixed after training",
        "  l: LSTM (opset 17): recurrent layers are not compiled; compile the part before them",
        "  running: CumSum (opset 17): end the model before it, and apply it to the compiled network's output",
        "  least: ReduceMin (opset 17): replace it by supported operators, or compile only the part of the model "
        "without it",
        "  flip: Slice (opset 17): it goes backwards; only steps of at least 1 are compiled",
    ]


def test_operators_of_one_runtime_are_named_with_their_domain():
    fused = node("FusedConv", ["x", "w"], ["y"], "fused", domain="com.microsoft")
    model = model_of(fused, inputs={"x": IMAGE}, weights=WEIGHT)
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    assert (
        "fused: com.microsoft.FusedConv (opset 17): it is not one of ONNX's own operators; "
        "export without optimisations that are made for one runtime"
    ) in error_of(model)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (node("Conv", ["x", "x"], ["y"]), "its weight is computed from the network's input"),
        (node("MaxPool", ["x"], ["y", "i"], kernel_shape=[2, 2], storage_order=1), "storage_order=1 is not compiled"),
        (node("AveragePool", ["x"], ["y"], kernel_shape=[2, 2], pads=[-1, 0, 0, 0]), "pads [-1, 0, 0, 0] are negative"),
        (node("Pad", ["x", "planes"], ["y"], mode="reflect"), "padding by mode='reflect' is compiled for rows and"),
        (node("Pad", ["x", "batch"], ["y"]), "it pads the first axis, which is the batch"),
        (node("Pad", ["x", "cut"], ["y"]), "negative padding cuts the image; slice it instead"),
        (node("Reshape", ["x", "pads"], ["y"]), "of 192 numbers; check the shape of the input"),
        (node("Cast", ["x"], ["y"], to=10), "it casts an activation to float16; keep activations in float32"),
        (node("Concat", ["x", "x"], ["y"], axis=0), "it changes the first axis, which is the batch"),
        (node("Gather", ["x", "shuffled"], ["y"], axis=1), "it gathers indices that are not at equal distances"),
        (node("Tile", ["x", "batches"], ["y"]), "it changes the first axis, which is the batch"),
        (node("Pow", ["x", "three"], ["y"]), "its exponents are several; use one number"),
        (node("Dropout", ["x", "", "yes"], ["y"]), "dropout is active; export the model in eval mode"),
        (node("RandomNormal", [], ["y"], shape=IMAGE), "remove random numbers from the model"),
        (node("Add", ["x", "odd"], ["y"]), "its inputs do not fit each other"),
        (
            node("Resize", ["x", "roi", "", "sizes"], ["y"], coordinate_transformation_mode="tf_crop_and_resize"),
            "coordinate_transformation_mode=tf_crop_and_resize is not compiled; use half_pixel or align_corners",
        ),
        (node("Resize", ["x", "", "", "batches"], ["y"]), "it resizes (1, 3, 8, 8) to (2, 3, 8, 8); only height and"),
    ],
)
def test_each_line_says_why_and_what_would_help(step, message):
    weights = {
        **{
            "pads": [0, 0, 1, 0, 0, 0, 0, 0],
            "batch": [1, 0, 0, 0, 0, 0, 0, 0],
            "planes": [0, 1, 0, 0, 0, 0, 0, 0],
            "cut": [0, 0, -1, 0, 0, 0, 0, 0],
        },
        **{"shuffled": [0, 2, 1], "three": numbers(3, 1, 1), "yes": np.array(True), "odd": numbers(5)},
        **{"sizes": [1, 3, 9, 9], "batches": [2, 3, 8, 8], "roi": numbers(8)},
    }
    used = {name: x for name, x in weights.items() if name in step.input}
    message_given = error_of(model_of(step, inputs={"x": IMAGE}, weights=used))
    assert message in message_given
    assert f"{step.op_type} (opset 17)" in message_given


def test_a_second_result_that_is_not_compiled_is_no_trouble_unless_it_is_read():
    pool = node("MaxPool", ["x"], ["y", "i"], kernel_shape=[2, 2])
    from_onnx(model_of(pool, inputs={"x": IMAGE}))
    message = error_of(model_of(pool, inputs={"x": IMAGE}, outputs=("y", "i")))
    assert "y: MaxPool (opset 17): its result 'i' is read, and only its first result is compiled" in message


def test_outputs_must_depend_on_the_input():
    model = model_of(CONV, node("Abs", ["w"], ["z"]), inputs={"x": IMAGE}, weights=WEIGHT, outputs=("y", "z"))
    assert "output 'z': it does not depend on the input; leave it out of the network's outputs" in error_of(model)


def test_weights_that_are_not_finite_are_counted_by_layer():
    weight = numbers(4, 3, 3, 3)
    weight[0, :2, 0, 0] = np.nan
    assert error_of(small(weights={"w": weight})) == (
        "weights are NaN or infinite: layer 'conv' has 2 of 108 in its weight; "
        "load weights from before the training diverged"
    )


def test_a_file_that_is_not_there(tmp_path):
    path = tmp_path / "net.onnx"
    assert error_of(path) == f"{path}: there is no such file; check the path"
    assert error_of(tmp_path) == f"{tmp_path} is a folder; give the .onnx file in it"


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9, 0.999])
def test_a_file_that_was_cut_off(tmp_path, share):
    path = tmp_path / "net.onnx"
    content = small().SerializeToString()
    path.write_bytes(content[: int(share * len(content))])
    message = error_of(path)
    assert message.startswith(f"{path}")
    assert "export it again" in message


@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"PK\x03\x04 a zip file", b"a text\n" * 20, bytes(range(256))])
def test_a_file_of_something_else(content):
    message = error_of(content)
    assert "not a complete ONNX file" in message or "holds no ONNX graph" in message
    assert "\n" not in message


MANY_STEPS = model_of(
    CONV,
    node("MaxPool", ["y"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
    node("Shape", ["p"], ["s"]),
    node("Gather", ["s", "zero"], ["n"], axis=0),
    node("Concat", ["n", "blank"], ["wanted"], axis=0),
    node("Reshape", ["p", "wanted"], ["flat"]),
    node("Gemm", ["flat", "matrix"], ["a"], transB=1),
    node("Resize", ["p", "", "scales"], ["b"], mode="linear"),
    node("Slice", ["p", "zero", "blank", "one"], ["c"]),
    inputs={"x": IMAGE},
    outputs=("a", "b", "c"),
    weights={
        **{**WEIGHT, "zero": [0], "one": [1], "blank": [-1]},
        **{"matrix": numbers(2, 36), "scales": np.array([1, 1, 2, 2], np.float32)},
    },
).SerializeToString()
CHANGES = st.lists(st.tuples(st.floats(0, 0.9999), st.binary(max_size=4), st.integers(0, 4)), min_size=1, max_size=4)


@settings(max_examples=300, deadline=None)
@given(changes=CHANGES)
def test_damaged_files_are_read_or_refused_and_nothing_else(changes):
    assert len(from_onnx(MANY_STEPS).outputs) == 3
    content = bytearray(MANY_STEPS)
    for place, new, dropped in changes:
        start = int(place * len(content))
        content[start : start + dropped] = new
    with contextlib.suppress(FlexgroupError):
        from_onnx(bytes(content))


@pytest.mark.parametrize(("opset", "word"), [(6, "older"), (99, "newer")])
def test_an_opset_that_is_not_known(opset, word):
    assert error_of(small(opset=opset)) == (
        f"the ONNX model is of opset {opset}, {word} than flexgroup reads (7 to 28); export it with opset_version=17, "
        "or convert it with onnx.version_converter.convert_version(model, 17)"
    )


def test_an_opset_that_the_installed_onnx_does_not_know(monkeypatch):
    model = small()
    monkeypatch.setattr(onnx.defs, "onnx_opset_version", lambda: 16)
    assert error_of(model) == (
        f"the ONNX model is of opset 17, and the installed onnx {onnx.__version__} knows 16; "
        "pip install -U onnx, or export it with opset_version=17"
    )


def test_nodes_that_contradict_onnx():
    unknown = model_of(node("Relu", ["nothing"], ["y"], "relu"), inputs={"x": IMAGE})
    assert error_of(unknown) == (
        "the ONNX model is not a valid ONNX model: node 'relu' reads 'nothing', which nothing before it computes; "
        "export it again, or ask its maker"
    )
    invented = model_of(node("Rellu", ["x"], ["y"], "relu"), inputs={"x": IMAGE})
    assert "not a valid ONNX model: node 'relu': No Op registered for Rellu" in error_of(invented)
    headless = model_of(node("Concat", ["x"], ["y"], "cat"), inputs={"x": IMAGE})
    assert "not a valid ONNX model: node 'cat': Required attribute 'axis' is missing" in error_of(headless)
    assert "nothing computes its output 'z'" in error_of(small(outputs=("z",)))


def test_weights_in_another_file(tmp_path):
    path = tmp_path / "net.onnx"
    model = small(weights={"w": numbers(64, 3, 3, 3)})
    onnx.save_model(model, path, save_as_external_data=True, location="net.bin", size_threshold=0)
    graph = from_onnx(path)
    np.testing.assert_array_equal(graph.nodes[0].op.weight, numbers(64, 3, 3, 3))

    kept = "its weights are in 'net.bin'"
    assert error_of(path.read_bytes()) == (
        f"the ONNX model: {kept}, which bytes alone do not lead to; give the path of the .onnx file"
    )
    (tmp_path / "net.bin").write_bytes((tmp_path / "net.bin").read_bytes()[:100])
    assert f"{path}: {kept}, which cannot be read" in error_of(path) or "damaged weight" in error_of(path)
    (tmp_path / "net.bin").unlink()
    assert error_of(path) == f"{path}: {kept}, but there is no 'net.bin' in {tmp_path}; copy it there"


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [
        ("FLOAT16", "export the float32 model"),
        ("DOUBLE", "export the float32 model"),
        ("UINT8", "compile the model from before quantisation, or cast pixels to float32 outside of it"),
        ("INT64", "compute the embedding outside, and compile the network behind it"),
    ],
)
def test_inputs_must_be_float32(kind, remedy):
    model = small()
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.DataType.Value(kind)
    assert error_of(model) == (f"the ONNX model: input 'x' is {kind.lower()}, and flexgroup compiles float32; {remedy}")


def test_a_network_in_float16_behind_a_cast():
    model = model_of(
        node("Cast", ["x"], ["h"], to=10),
        node("Conv", ["h", "w"], ["c"]),
        node("Cast", ["c"], ["y"], to=1),
        inputs={"x": IMAGE},
        weights={"w": numbers(4, 3, 3, 3).astype(np.float16)},
    )
    assert error_of(model) == (
        "the ONNX model computes in float16 ('w'), and flexgroup compiles float32; export the float32 model"
    )


def test_weights_may_be_kept_in_float16_if_they_are_cast():
    half = {"w": numbers(4, 3, 3, 3).astype(np.float16)}
    model = model_of(
        node("Cast", ["w"], ["w32"], to=1), node("Conv", ["x", "w32"], ["y"]), inputs={"x": IMAGE}, weights=half
    )
    np.testing.assert_array_equal(from_onnx(model).nodes[0].op.weight, half["w"].astype(np.float32))


def test_a_quantised_network():
    scale = {"s": np.float32(0.1), "z": np.zeros((), np.uint8)}
    model = model_of(
        node("QuantizeLinear", ["x", "s", "z"], ["q"], "quantise"),
        node("DequantizeLinear", ["q", "s", "z"], ["y"], "back"),
        inputs={"x": IMAGE},
        weights={name: np.asarray(x) for name, x in scale.items()},
    )
    assert error_of(model) == (
        "the ONNX model is quantised: quantise (QuantizeLinear), back (DequantizeLinear); "
        "compile the float32 model from before quantisation"
    )


OPEN = {"x": ["n", 3, "h", "w"]}


@pytest.mark.parametrize(
    ("inputs", "given", "message"),
    [
        (
            OPEN,
            None,
            "input 'x' is declared as (n, 3, h, w), with sizes left open; give them: an example of the size you want "
            "to flexgroup.compile(model, example), --input on the command line, or input_shapes",
        ),
        ({"x": None}, None, "input 'x' is declared as a tensor of any shape, with sizes left open; give them"),
        (
            OPEN,
            [(1, 4, 8, 8)],
            "input 'x' is declared as (n, 3, h, w), but shape (1, 4, 8, 8) was given; give one that",
        ),
        (OPEN, [(1, 3, 8)], "but shape (1, 3, 8) was given"),
        (OPEN, [(8,)], "input 'x' cannot have shape (8,); give (batch, channels, height, width) or the like"),
        (OPEN, [], "the ONNX model has 1 inputs (x), but 0 shapes were given"),
        (OPEN, {"y": (1, 3, 8, 8)}, "the ONNX model has no input 'y'; its inputs are x"),
        ({"x": [3]}, None, "input 'x' is declared as (3); flexgroup takes inputs with the batch first"),
        ({}, None, "the ONNX model has no input"),
    ],
)
def test_shapes_of_inputs(inputs, given, message):
    step = node("Relu", ["x"], ["y"]) if inputs else node("Constant", [], ["y"], value_float=1.0)
    assert message in error_of(model_of(step, inputs=inputs), given)


def test_inputs_share_their_first_axis():
    model = model_of(node("Relu", ["x"], ["y"]), inputs={"x": (1, 3), "z": (2, 3)})
    assert "its inputs have different first axes ('x' (1, 3), 'z' (2, 3)); the first axis is the batch" in error_of(
        model
    )


@pytest.mark.parametrize("given", [[(5, 3, 6, 7)], {"x": (5, 3, 6, 7)}])
def test_open_sizes_are_those_that_are_given_and_an_open_batch_is_any(given):
    graph = from_onnx(small(inputs=OPEN), given)
    assert graph.shapes["x"] == (3, 6, 7)


def test_a_model_without_onnx_says_what_to_install(monkeypatch):
    content = small().SerializeToString()
    monkeypatch.setitem(sys.modules, "onnx", None)
    module = importlib.import_module("flexgroup.graph.from_onnx")
    with pytest.raises(FlexgroupError, match=r'pip install "flexgroup\[onnx\]"'):
        module.from_onnx(content)
