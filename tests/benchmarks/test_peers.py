"""What the comparison with other engines promises: the same weights, honest verdicts, nobody dropped in silence."""

from __future__ import annotations

import os
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_engines
from _peers._cases import ALIGNED, UNALIGNED, make_case, prune_at_random
from _peers._mnn import blocks_of_output_channels
from _peers._onnx import write_onnx
from _peers._others import barrier_seconds
from _peers._process import Process, WorkerError
from _peers._rounds import Plan, cells_of, measure
from _peers._tables import Row, verdicts
from torch import nn

from flexgroup.engine._others import Others
from flexgroup.zoo import build
from flexgroup.zoo._same_conv import SameConv2d

ROW = Row("resnet20", "flexgroup", "fp32", 0.0, False, 1, 0.5, 0.5, 0.5, 9, 1e-7, True)
PEER = replace(ROW, engine="Peer", ms=0.4)


@pytest.fixture
def toys_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(toy_engines.__file__).parent))


def without_zeros(model: nn.Module) -> nn.Module:
    """Random weights may be exactly zero; these are not."""
    for parameter in model.parameters():
        nn.init.ones_(parameter)
    return model


def plan_in(folder: Path) -> Plan:
    return Plan(folder, starts=2, rounds=2, seconds=0.001, say=lambda line: None)


def test_aligned_and_unaligned_groups_leave_as_many_weights() -> None:
    kept = {}
    for groups in (ALIGNED, UNALIGNED):
        model = without_zeros(build("mobilenet_v2"))
        prune_at_random(model, 0.9, groups)
        kept[groups] = [int((module.weight != 0).sum()) for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert kept[ALIGNED] == kept[UNALIGNED]


def test_the_first_convolution_depthwise_ones_and_the_last_layer_stay_whole() -> None:
    model = without_zeros(build("mobilenet_v2"))
    prune_at_random(model, 0.9, ALIGNED)
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    whole = [layer for layer in layers if bool((layer.weight != 0).all())]
    assert whole == [layer for layer in layers if layer in (layers[0], layers[-1]) or getattr(layer, "groups", 1) > 1]


def test_padding_goes_into_the_convolution(tmp_path: Path) -> None:
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    model, x = nn.Sequential(SameConv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4)).eval(), torch.randn(1, 3, 8, 8)
    write_onnx(model, x, tmp_path / "model.onnx")
    assert [node.op_type for node in onnx.load(str(tmp_path / "model.onnx")).graph.node] == ["Conv"]
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        np.testing.assert_allclose(session.run(None, {"x": x.numpy()})[0], model(x).numpy(), atol=1e-5)


def test_mnn_is_told_blocks_of_four_output_channels() -> None:
    assert blocks_of_output_channels(4).hex(" ") == "0a 05 30 2e 30 2e 30 12 0a 08 01 1a 06 08 01 1a 02 20 04"


def test_the_slower_of_our_group_kinds_is_held_against_the_fastest_peer_of_any_kind() -> None:
    ours = [replace(ROW, sparsity=0.95, ms=0.1), replace(ROW, sparsity=0.95, unaligned=True, ms=0.2)]
    sparse, wrong = replace(PEER, sparsity=0.95, ms=0.5), replace(PEER, engine="Wrong", ms=0.1, right=False)
    (verdict,) = verdicts([*ours, PEER, sparse, wrong])
    assert (verdict.peer, verdict.peer_ms, verdict.ours_ms) == ("Peer (dense)", 0.4, 0.2)
    assert (verdict.ratio, verdict.target, verdict.met) == (2.0, 2.0, True)
    (verdict,) = verdicts([*ours, PEER, sparse, wrong], with_targets=False)  # of groups of another height
    assert (verdict.ratio, verdict.target, verdict.met) == (2.0, None, None)


def test_bf16_peers_are_a_race_of_their_own() -> None:
    rows = [replace(ROW, sparsity=0.95, ms=0.1), PEER, replace(PEER, engine="Half", precision="bf16", ms=0.09)]
    assert [(verdict.peer, verdict.met) for verdict in verdicts(rows)] == [
        ("Peer (dense)", True),
        ("Half (dense)", False),
    ]


@pytest.mark.usefixtures("toys_on_the_path")
def test_what_does_not_work_has_its_reason_in_the_results(tmp_path: Path) -> None:
    case = make_case("digits_net", 0.0, False, tmp_path)
    result = measure(cells_of([toy_engines.Echo(), toy_engines.Dying()], [case], [1]), plan_in(tmp_path))
    echo, dying = result.outcomes.values()
    assert result.versions["numpy"] == np.__version__
    assert echo.difference == float("inf")  # its input is no output of the network
    assert not echo.failure
    assert len(echo.samples) >= 4
    assert dying.failure == "its process ended (3): converted | out of luck"


@pytest.mark.usefixtures("toys_on_the_path")
def test_a_worker_says_what_went_wrong_and_goes_on(tmp_path: Path) -> None:
    with Process(toy_engines.Echo(), Path(sys.executable), tmp_path / "log", 1) as worker:
        with pytest.raises(WorkerError, match="KeyError: 'nothing'"):
            worker.ask("output", key="nothing")
        assert worker.ask("versions") == {"numpy": np.__version__}
        assert worker.settle()


def test_what_other_programs_use_is_told_apart_from_our_own_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat, hertz = tmp_path / "stat", os.sysconf("SC_CLK_TCK")

    def at(clock: float, ours: float, everybody: float) -> None:
        stat.write_text(f"cpu  {round(everybody * hertz)} 0 0 5000 0 0 0 0 0 0\n")
        monkeypatch.setattr("time.monotonic", lambda: clock)
        monkeypatch.setattr("time.process_time", lambda: ours)

    monkeypatch.setattr("flexgroup.engine._others.STAT", stat)
    at(clock=10.0, ours=1.0, everybody=100.0)
    others = Others([])
    at(clock=12.0, ours=2.0, everybody=104.0)
    assert others.cores() == pytest.approx(1.5)


def test_two_threads_wait_for_each_other_and_are_gone_afterwards():
    before = threading.active_count()
    assert 0 < barrier_seconds(steps=20) < 1
    assert threading.active_count() == before
