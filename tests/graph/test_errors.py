"""What a user reads when a model cannot become a graph."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flexgroup import FlexgroupError
from flexgroup.graph import from_torch

IMAGE = torch.randn(2, 3, 8, 8)


def error_of(model, *example):
    with pytest.raises(FlexgroupError) as caught:
        from_torch(model, example or (IMAGE,))
    return str(caught.value)


class Net(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


class Modern(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3), nn.RReLU(), nn.LPPool2d(9, 2), nn.Conv2d(8, 8, 3, padding=1))
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.features(x)
        x = x.div(torch.erfinv(x.mean((2, 3), keepdim=True)) + 1, rounding_mode="floor")
        x = self.norm(x.permute(0, 2, 3, 1))
        return self.head(x.flatten(1, 2).argmax(1).float()).softmax(-1)


def test_all_unsupported_operators_are_reported_at_once_with_layer_line_and_hint():
    headline, *lines = error_of(Modern()).splitlines()
    assert headline.startswith("Modern uses 6 operators that are not supported; supported are convolutions,")
    line = r" at test_errors\.py:\d+, in forward: "
    expected = [
        rf"  features\.1: aten\.rrelu\.default{line}use another activation, such as nn\.SiLU or nn\.LeakyReLU, .*",
        rf"  features\.2: aten\.pow\.Tensor_Scalar{line}its exponent is 9\.0; of whole ones 1 to 8 .*",
        rf"  features\.2: aten\.sign\.default{line}replace it by supported operators, .*",
        rf"  \(model\): aten\.erfinv\.default{line}replace it by supported operators, .*",
        rf"  \(model\): aten\.div\.Tensor_mode{line}rounding divisions are not compiled",
        rf"  \(model\): aten\.argmax\.default{line}end the model before it, .*",
    ]
    for pattern, text in zip(expected, lines, strict=True):
        assert re.fullmatch(pattern, text), text


@pytest.mark.parametrize(
    ("function", "what"),
    [
        (
            lambda x: x.flatten(0, 1),
            "aten.view.default.*it changes the first axis, which is the batch; keep the",
        ),
        (lambda x: x.permute(1, 0, 2, 3).relu(), "output.: aten.relu.default.*it changes the first axis"),
        (lambda x: x[:1], "aten.slice.Tensor.*it slices the first axis, which is the batch"),
        (lambda x: x.mean(), "aten.mean.default.*it changes the first axis"),
        (lambda x: torch.cat([x, x], 0), "aten.cat.default.*it changes the first axis"),
        (
            lambda x: torch.cat([x, torch.arange(128.0).view(2, 1, 8, 8)], 1),
            "its constant tensors of shape .2, 1, 8, 8. differs between images of a batch",
        ),
        (
            lambda x: F.pad(x, (1, -1, 0, 0)),
            "negative padding cuts the image; slice it instead: x.:, :, 1:-1.",
        ),
        (lambda x: F.pad(x[:, None], (1, 1, 1, 1, 1, 1), "replicate"), "by mode='replicate' is compiled for rows and"),
        (
            lambda x: F.adaptive_max_pool2d(x, 3),
            "its output 3x3 does not divide its input 8x8, so windows differ",
        ),
        (lambda x: x.mean(0), "aten.mean.dim.*it changes the first axis"),
        (lambda x: x * torch.arange(16.0).view(2, 1, 8, 1), "its constant constant of shape .2, 1, 8, 1. differs"),
        (lambda x: x.norm(p=3, dim=1), "it is a norm of order 3; only those of order 1 and 2 are compiled"),
        (lambda x: x.var((2, 3), correction=64), "it is the variance of 64 numbers with a correction of 64"),
        (
            lambda x: F.instance_norm(x, torch.zeros(3), torch.ones(3), use_input_stats=False),
            "its statistics are fixed",
        ),
        (lambda x: x.clamp(torch.zeros(8)), "its bounds are tensors; clamp to numbers"),
        (lambda x: F.dropout(x, 0.5, True), "dropout is active in eval mode; pass training=self.training"),
        (lambda x: x + torch.rand(1), "aten.rand.default.*remove random numbers from eval mode"),
        (lambda x: F.conv2d(x, x[:, :, :3, :3]), "its weight is computed from the network's input"),
        (lambda x: F.linear(x.permute(1, 2, 3, 0), torch.ones(4, 2)), "it works along the batch; keep the batch apart"),
        (lambda x: F.max_pool2d(x[:, 0], 2), "reads a value of shape .batch, 8, 8. where images"),
        (lambda x: x @ torch.arange(384.0).view(2, 3, 8, 8), "its constant matrices differ between images of a batch"),
        (
            lambda x: F.fold(F.unfold(x, 3, dilation=2), 8, 3, dilation=2),
            "windows with gaps are not put together again",
        ),
        (lambda x: x.max(1)[1].float(), "use only the first result"),
        (lambda x: x.repeat_interleave(2), "it repeats the flattened value, the batch included; name the axis"),
        (lambda x: x[x > 0], "aten.index.Tensor|aten.nonzero|torch.export cannot export"),
        (lambda x: x.transpose(0, 2) @ x.permute(2, 1, 3, 0), "it multiplies along the batch; keep the batch apart"),
        (lambda x: x.flatten(1)[:, :8].expand(3, 2, 8), "aten.expand.default.*it changes the first axis"),
        (
            lambda x: F.scaled_dot_product_attention(x, x, x, torch.full((8, 8), -torch.inf)),
            "its mask hides every key from some query, or is NaN",
        ),
        (lambda x: torch.einsum("bcij,bcij,bcij->bij", x, x, x), "einsum.'bcij,bcij,bcij->bij'. is not compiled; two"),
        (lambda x: torch.einsum("bcij,bdkj->bcd", x, x), "sums an axis of one operand alone; sum it before"),
        (lambda x: x.roll(1), "it rolls the flattened value, the batch included; name the axes"),
        (lambda x: F.scaled_dot_product_attention(x, x, x, None, 0.5), "pass dropout_p=0.0 unless self.training"),
        (
            lambda x: F.batch_norm(x, None, None, training=True),
            "use nn.BatchNorm2d, whose statistics are fixed",
        ),
        (
            lambda x: F.conv_transpose2d(x, torch.ones(3, 2, 2, 2), dilation=2),
            "dilated transposed convolutions are not compiled; use dilation=1",
        ),
        (lambda x: F.grid_sample(x, torch.ones(2, 4, 4, 2)), "before and after the resampling separately"),
        (lambda x: F.max_pool2d(x, 2, return_indices=True)[1], "use only the first result"),
        (lambda x: (x, None), "output.: None: return only tensors that depend on the input"),
        (lambda x: (x, torch.ones(2)), "output.: a constant tensor: return only tensors that depend on the input"),
    ],
)
def test_each_line_says_why_and_what_would_help(function, what):
    assert re.search(what, error_of(Net(function)))


def test_the_batch_is_recognised_even_when_it_is_one():
    message = error_of(Net(lambda x: (x[:1], x.mean((2, 3)).squeeze(), x.flatten(0, 1))), IMAGE[:1])
    assert "uses 2 operators" in message, "squeeze() leaves the batch alone"
    assert "aten.slice.Tensor at test_errors.py" in message
    assert "it slices the first axis, which is the batch; slice the batch outside of the model" in message
    assert "(output): aten.view.default" in message
    assert "it changes the first axis, which is the batch; keep the batch apart and first" in message


def test_types_in_the_middle_of_a_network_stay_float32():
    message = error_of(Net(lambda x: x.half() + 1))
    assert "aten._to_copy.default" in message or "aten.to.dtype" in message
    assert "its result is float16; keep activations in float32" in message


def test_a_model_that_writes_its_buffers_is_refused():
    class Counter(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            return x.relu()

    assert "(model): writes 'calls': a compiled network keeps no state" in error_of(Counter())


def test_a_model_that_torch_cannot_export_is_refused_with_its_reason_and_place_in_one_line():
    def forward(x):
        return x if x.sum() > 0 else -x

    message = error_of(Net(forward))
    assert message.startswith("torch.export cannot export Net: Could not guard on data-dependent expression")
    assert re.search(r"\(test_errors\.py:\d+, in forward\); check that model\(\*example\) runs", message)
    assert "\n" not in message


def test_an_example_that_does_not_fit_the_model(capfd):
    message = error_of(nn.Sequential(nn.Flatten(), nn.Linear(5, 2)))
    assert message.startswith("torch.export cannot export Sequential: ")
    assert message.endswith(
        "check that model(*example) runs and that forward() does not branch on the values of tensors"
    )
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_counted_by_layer(bad):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(288, 2))
    with torch.no_grad():
        model[0].weight[0, :, 0, 0] = bad
        model[1].running_var[2] = bad
        model[3].bias[1] = -bad
    assert error_of(model) == (
        "weights are NaN or infinite: layer '0' has 3 of 216 in its weight, layer '1' has 1 of 8 in its running_var, "
        "layer '3' has 1 of 2 in its bias; load weights from before the training diverged"
    )


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            nn.Conv2d(3, 4, 3).half(),
            "weight 'weight' is float16, and flexgroup compiles float32; convert with model.float()",
        ),
        (
            nn.Linear(3, 4).bfloat16(),
            "weight 'weight' is bfloat16, and flexgroup compiles float32; convert with model.float()",
        ),
        (
            nn.Linear(3, 4).double(),
            "weight 'weight' is float64, and flexgroup compiles float32; convert with model.float()",
        ),
        (nn.LazyLinear(4), "weight 'weight' has no shape yet; run the model once on an example before"),
        (
            nn.Linear(3, 4, device="meta"),
            "weight 'weight' has no values (it is on the meta device); load the weights before",
        ),
    ],
)
def test_weights_must_be_float32_numbers(model, message):
    assert error_of(model) == message


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (IMAGE, "example is not a tuple of tensors; pass the model's positional inputs, for example (x,)"),
        ((), "example is not a tuple of tensors; pass the model's positional inputs, for example (x,)"),
        (
            (IMAGE.bfloat16(),),
            "example[0] of shape (2, 3, 8, 8) is bfloat16, and flexgroup compiles float32; "
            "convert it with example.float()",
        ),
        (
            (IMAGE[0, 0, 0],),
            "example[0] is of shape (8,); flexgroup takes images (batch, channels, height, width), sequences (batch, "
            "tokens, features) or vectors (batch, features), so add the batch with x[None] or reshape it",
        ),
        (
            (IMAGE, IMAGE[:1]),
            "the example's tensors have batches of 1 and 2; use the same batch for all of them",
        ),
    ],
)
def test_the_example_is_a_tuple_of_float32_batches(example, message):
    with pytest.raises(FlexgroupError) as caught:
        from_torch(nn.ReLU(), example)
    assert str(caught.value) == message


def test_values_of_other_numbers_of_axes_do_not_broadcast():
    message = error_of(Net(lambda x: x + x[:, :1, :, 0].flatten(1)), IMAGE[:1])
    assert "aten.add.Tensor at test_errors.py" in message
    assert "its inputs differ in shape: (3, 8, 8) and (8,)" in message
