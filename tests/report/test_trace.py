"""The timeline has a complete event for every kernel call, on its thread, in microseconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flexgroup.engine import Profile
from flexgroup.engine._profile import Call
from flexgroup.report import trace_document, write_trace

CALLS = (
    Call("conv1", "conv_f32_ring_2x1_t3", 0, 0.0, 2e-6, 100, 4096),
    Call("conv1", "conv_f32_ring_2x1_t3", 1, 0.0, 2e-6, 100, 4096),
    Call("pool", "pool_f32_max", 0, 2e-6, 1e-6, 0, 512),
)
PROFILE = Profile((), calls=CALLS, threads=2)


def test_every_call_is_a_complete_event() -> None:
    events = [event for event in trace_document(PROFILE)["traceEvents"] if event["ph"] == "X"]
    assert [(event["name"], event["tid"], event["cat"]) for event in events] == [
        ("conv1", 0, "conv"),
        ("conv1", 1, "conv"),
        ("pool", 0, "pool"),
    ]
    assert [event["ts"] for event in events] == pytest.approx([0, 0, 2])
    assert [event["dur"] for event in events] == pytest.approx([2, 2, 1])
    assert events[0]["args"] == {"kernel": "conv_f32_ring_2x1_t3", "macs": 100, "bytes": 4096}
    assert len({event["pid"] for event in events}) == 1


def test_threads_are_named() -> None:
    names = [event for event in trace_document(PROFILE)["traceEvents"] if event["ph"] == "M"]
    assert [(event["name"], event["args"]["name"]) for event in names] == [
        ("process_name", "flexgroup"),
        ("thread_name", "thread 0"),
        ("thread_name", "thread 1"),
    ]


def test_the_file_appears_whole(tmp_path: Path) -> None:
    write_trace(PROFILE, tmp_path / "trace.json")
    assert json.loads((tmp_path / "trace.json").read_text()) == trace_document(PROFILE)
    assert len(list(tmp_path.iterdir())) == 1
