"""Compiled networks agree with torch: any convolution, any small network, any pattern of zeros, threads and target."""

from __future__ import annotations

import gc
import os
import threading
from collections import OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import flexgroup
from flexgroup import FlexgroupError
from flexgroup.engine import plan_graph
from flexgroup.engine._workers import address
from flexgroup.graph import Clamp, Graph, Node, from_torch, optimize
from flexgroup.kernels import TARGETS
from flexgroup.zoo import build
from tests.engine.agreement import RUNNABLE, agree, agrees_run_after_run, twins_agree
from tests.engine.networks import PATTERNS, Residual, convolutions, examples, networks, prune, randomise
from tests.kernels.here import HOST


@settings(max_examples=examples(35), deadline=None)
@given(convolutions(), st.sampled_from(PATTERNS), st.sampled_from(RUNNABLE), st.integers(1, 3), st.integers(1, 3))
def test_any_convolution_agrees_with_torch(case, pattern, target, threads, batch):
    conv, shape = case
    randomise(conv, 3)
    prune(conv, pattern, 0.3)
    compiled = flexgroup.compile(conv, (torch.randn(1, *shape),), target=target, threads=threads)
    agree(conv, compiled, torch.randn(batch, *shape))


@settings(max_examples=examples(35), deadline=None)
@given(networks(), st.sampled_from(PATTERNS), st.sampled_from(RUNNABLE), st.integers(1, 3), st.integers(1, 3))
def test_any_network_agrees_with_torch_run_after_run(case, pattern, target, threads, batch):
    model, shape = case
    agrees_run_after_run(model, shape, pattern, 0.2, target=target, threads=threads, batch=batch)


@settings(max_examples=examples(15), deadline=None)
@given(networks(), st.sampled_from(PATTERNS), st.sampled_from(sorted(TARGETS)), st.integers(1, 2))
def test_the_plan_means_the_same_to_the_numpy_twins(case, pattern, target, threads):
    model, shape = case
    twins_agree(model, shape, pattern, 0.2, target=TARGETS[target], threads=threads)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_resnet20_agrees_with_torch_and_is_the_same_for_any_thread_count(pattern):
    model = build("resnet20")
    randomise(model, 0)
    prune(model, pattern, 0.1)
    x = torch.randn(3, 3, 32, 32)
    outputs = []
    for threads in (1, 2, 3):
        compiled = flexgroup.compile(model, (x[:1],), threads=threads)
        agree(model, compiled, x)
        outputs.append(compiled(x))
    assert all(torch.equal(outputs[0], other) for other in outputs[1:])


def test_zeros_shorten_the_work_and_dense_code_ignores_them():
    model = Residual(16, 16, 1, 3)
    randomise(model, 0)
    prune(model, "4x1 rows", 0.1)
    x = torch.randn(1, 16, 12, 12)
    sparse, dense = flexgroup.compile(model, (x,)), flexgroup.compile(model, (x,), sparse=False)
    assert sum(layer.macs for layer in sparse.explain().layers) < 0.2 * sum(
        layer.macs for layer in dense.explain().layers
    )
    assert all("ring_4x1" in layer.kernel and "4x1" in layer.reason for layer in sparse.explain().layers)
    assert torch.allclose(sparse(x), dense(x), atol=1e-4)


def test_numpy_in_gives_numpy_out():
    conv = nn.Conv2d(3, 4, 3).eval()
    compiled = flexgroup.compile(conv, (torch.zeros(1, 3, 8, 8),))
    result = compiled(np.ones((2, 3, 8, 8), np.float32))
    assert isinstance(result, np.ndarray)
    np.testing.assert_allclose(result, conv(torch.ones(2, 3, 8, 8)).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize(
    "array", [np.ones(3), np.broadcast_to(np.float32(1), (2, 3)), np.zeros((0, 4)), np.ones(8)[1::2]]
)
def test_an_address_is_where_the_data_begins_whatever_the_array(array):
    assert address(array) == array.ctypes.data


def test_arrays_that_nobody_may_write_to_are_read():
    conv, x = nn.Conv2d(3, 4, 3).eval(), np.random.default_rng(0).random((2, 3, 8, 8), np.float32)
    compiled = flexgroup.compile(conv, (torch.zeros(1, 3, 8, 8),))
    expected = compiled(x)
    x.flags.writeable = False
    np.testing.assert_array_equal(compiled(x), expected)
    assert compiled(x[:0]).shape == (0, 4, 6, 6)


def test_several_inputs_and_outputs():
    class Two(nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.relu(a + b), torch.cat([a, b], 1)

    a, b = torch.randn(2, 3, 5, 5), torch.randn(2, 3, 5, 5)
    compiled = flexgroup.compile(Two(), (a[:1], b[:1]))
    total, joined = compiled(a, b)
    assert torch.allclose(total, torch.relu(a + b))
    assert torch.equal(joined, torch.cat([a, b], 1))


def test_nan_passes_through_like_in_torch():
    conv = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.MaxPool2d(2))
    x = torch.zeros(1, 1, 4, 4)
    compiled = flexgroup.compile(conv, (x,))
    x[0, 0, 0, 0] = float("nan")
    assert torch.equal(compiled(x).isnan(), conv(x).isnan())
    x[0, 0, 0, 0] = 0.0
    assert not compiled(x).isnan().any()


def test_a_layer_without_any_weight_left_still_gives_its_bias():
    conv = nn.Conv2d(4, 6, 3, padding=1)
    with torch.no_grad():
        conv.weight.zero_()
    x = torch.randn(1, 4, 7, 7)
    assert torch.allclose(flexgroup.compile(conv, (x,))(x), conv(x))


class Between(nn.Module):
    """Two strided convolutions whose phases have the same size but not the same number of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(4, 3, 3, 2, 1), nn.Conv2d(4, 2, 3, 1, 1), nn.Conv2d(2, 3, 3, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.a(x) + self.c(self.b(x))


class Padded(nn.Module):
    """Padding before a convolution; what is cut off again may leave nothing but padding."""

    def __init__(self, pad: tuple[int, ...], channels: int | None, conv: nn.Module) -> None:
        super().__init__()
        self.pad, self.channels, self.conv = pad, channels, conv

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(nn.functional.pad(x, self.pad)[:, : self.channels])


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (Between(), (4, 7, 7)),
        (Between(), (4, 9, 6)),
        (Padded((0, 0, 0, 0, 4, 0), 4, nn.Conv2d(4, 4, 9, padding=4)), (4, 64, 512)),
        (Padded((1, 9, 1, 9), None, nn.Conv2d(3, 4, 3, 2, dilation=2)), (3, 5, 5)),
    ],
)
def test_memory_that_is_shared_or_all_padding_stays_clean(model, shape):
    randomise(model, 0)
    x = torch.randn(3, *shape)
    compiled = flexgroup.compile(model, (x[:1],))
    for _ in range(2):
        agree(model, compiled, x)


def test_an_infinite_input_spoils_its_own_output_only():
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.AvgPool2d(3, 1, 1), nn.Conv2d(2, 1, 3, padding=1)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_()
    x = torch.randn(1, 1, 6, 6)
    compiled = flexgroup.compile(model, (x,))
    bad = x.clone()
    bad[0, 0, 1, 1] = float("inf")
    assert torch.equal(compiled(bad).isfinite(), model(bad).isfinite())
    agree(model, compiled, x)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("channels", [3, 8, 10, 17])
def test_an_image_without_numbers_leaves_nothing_behind(channels, precision):
    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, channels, 3, padding=1)
            self.first, self.second = nn.Linear(channels, 7), nn.Linear(7, channels)

        def forward(self, x):
            return self.second(torch.relu(self.first(torch.relu(self.conv(x)).mean((2, 3)))))

    torch.manual_seed(0)
    x = torch.randn(1, 3, 9, 9)
    try:
        network = flexgroup.compile(Classifier(), (x,), threads=1, precision=precision)
    except FlexgroupError as error:
        pytest.skip(str(error))
    before = network(x)
    assert network(torch.full_like(x, float("nan"))).isnan().all()
    assert torch.equal(network(x), before)


def test_bands_of_rows_carry_similar_work():
    conv = nn.Conv2d(64, 256, 1)
    randomise(conv, 0)
    x = torch.randn(1, 64, 4, 4)
    for threads in (2, 3, 4):
        plan = plan_graph(optimize(from_torch(conv, (x,))), HOST, threads=threads)
        (step,) = (step for step in plan.steps if step.dense_macs)
        rows = [dict(zip(step.kernel.signature.fields, part, strict=True))["row_count"] for part in step.parts]
        assert sum(rows) == 256
        assert max(rows) - min(rows) <= 16


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_process_can_run_the_network():
    conv = nn.Conv2d(3, 8, 3)
    randomise(conv, 0)
    x = torch.randn(1, 3, 8, 8)
    compiled = flexgroup.compile(conv, (x,), threads=2)
    expected = compiled(x.numpy())
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(compiled(x.numpy()), expected) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_threads_wait_on_memory_that_nothing_else_shares():
    compiled = flexgroup.compile(nn.Conv2d(3, 4, 1).eval(), (torch.randn(1, 3, 8, 8),), threads=2)
    program = compiled._program
    assert program._barrier.ctypes.data % 4096 == 0
    assert program._barrier.nbytes == 4096
    assert program._workers._pool.ctypes.data % 4096 == 0


def test_closing_waits_for_the_call_that_is_running():
    conv = nn.Conv2d(3, 8, 3)
    x = np.zeros((200, 3, 32, 32), np.float32)
    compiled = flexgroup.compile(conv, (torch.zeros(1, 3, 32, 32),), threads=2)
    refused = []

    def call() -> None:
        try:
            for _ in range(20):
                compiled(x)
        except FlexgroupError as error:
            refused.append(str(error))

    caller = threading.Thread(target=call)
    caller.start()
    compiled.close()
    caller.join(timeout=60)
    assert not caller.is_alive()
    assert all("was closed" in text for text in refused)


def test_modes_weights_and_random_numbers_are_left_as_they_were():
    model = Residual(4, 4, 1, 3)
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.bn1.eval()
    x, random_state = torch.randn(1, 4, 6, 6), torch.get_rng_state()
    flexgroup.compile(model, (x,))
    assert torch.equal(torch.get_rng_state(), random_state)
    assert model.training
    assert not model.bn1.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("enabled", [True, False])
def test_the_garbage_collector_is_left_as_it_was_whether_it_compiles_or_not(enabled):
    was_enabled = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        flexgroup.compile(nn.Conv2d(3, 4, 1).eval(), (torch.randn(1, 3, 8, 8),)).close()
        assert gc.isenabled() == enabled
        with pytest.raises(FlexgroupError):
            flexgroup.compile(nn.GRU(3, 4).eval(), (torch.randn(1, 3, 3),))
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if was_enabled else gc.disable)()


def test_calls_that_do_not_fit_say_what_was_expected():
    compiled = flexgroup.compile(nn.Conv2d(3, 4, 3), (torch.zeros(1, 3, 8, 8),))
    with pytest.raises(FlexgroupError, match=r"has shape \(1, 3, 9, 8\), but .* compiled for \(batch, 3, 8, 8"):
        compiled(torch.zeros(1, 3, 9, 8))
    with pytest.raises(FlexgroupError, match=r"is float64; convert it to float32"):
        compiled(torch.zeros(1, 3, 8, 8, dtype=torch.float64))
    with pytest.raises(FlexgroupError, match=r"is bfloat16; convert it to float32"):
        compiled(torch.zeros(1, 3, 8, 8, dtype=torch.bfloat16))
    with pytest.raises(FlexgroupError, match=r"is a list; give a torch tensor or numpy array"):
        compiled([1.0])
    with pytest.raises(FlexgroupError, match=r"takes 1 inputs, but 2 were given"):
        compiled(torch.zeros(1, 3, 8, 8), torch.zeros(1))


@pytest.mark.parametrize("threads", [1, 2])
def test_a_closed_network_says_so(threads):
    compiled = flexgroup.compile(nn.Conv2d(3, 4, 3), (torch.zeros(1, 3, 8, 8),), threads=threads)
    compiled.close()
    compiled.close()
    with pytest.raises(FlexgroupError, match=r"was closed; compile it again"):
        compiled(torch.zeros(1, 3, 8, 8))


def test_bad_settings_are_refused():
    conv, x = nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 8)
    with pytest.raises(FlexgroupError, match=r"threads=0; give the number of cores"):
        flexgroup.compile(conv, (x,), threads=0)
    with pytest.raises(FlexgroupError, match=r"unknown target 'm4'; known targets: host, x86-64-avx512"):
        flexgroup.compile(conv, (x,), target="m4")


class Named(nn.Module):
    """Returns a dict, as networks for segmentation and those of transformers do."""

    def __init__(self, kind: type[dict[str, torch.Tensor]]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.kind = kind

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.conv(x)
        return self.kind({"out": torch.relu(y), "aux": y.mean((2, 3))})


@pytest.mark.parametrize("kind", [dict, OrderedDict])
def test_a_dict_of_tensors_comes_back_as_a_dict(kind):
    torch.manual_seed(0)
    model, x = Named(kind).eval(), torch.randn(2, 3, 8, 8)
    for _ in range(2):  # compiled, and from the cache
        compiled = flexgroup.compile(model, (x,))
        results, wanted = compiled(x), model(x)
        assert list(results) == ["out", "aux"]
        for name, result in results.items():
            torch.testing.assert_close(result, wanted[name], atol=1e-5, rtol=1e-5)
        assert isinstance(compiled(x.numpy())["aux"], np.ndarray)


def test_models_that_do_not_return_tensors_are_refused():
    class Nested(nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, tuple[torch.Tensor, ...]]:
            return {"y": (torch.relu(x), torch.sigmoid(x))}

    with pytest.raises(FlexgroupError, match=r"Nested returns a dict with something else than tensors in it; wrap it"):
        flexgroup.compile(Nested(), (torch.zeros(1, 3, 8, 8),))


def test_activations_that_offsets_cannot_reach_are_refused():
    graph = Graph(
        ("x",), ("y",), (Node("relu", Clamp(0.0), ("x",), "y"),), {"x": (72, 2160, 3840), "y": (72, 2160, 3840)}
    )
    with pytest.raises(FlexgroupError, match=r"activations need .* GiB for one image, more than the 2 GiB"):
        plan_graph(graph, HOST)


def test_a_result_beyond_tolerance_is_an_error():
    model = nn.Conv2d(8, 8, 3)
    with pytest.raises(FlexgroupError, match=r"differs from torch by .* more than tolerance=1e-12"):
        flexgroup.compile(model, (torch.randn(1, 8, 9, 9),), tolerance=1e-12)
