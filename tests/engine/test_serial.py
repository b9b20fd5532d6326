"""Plans and graphs survive being written and read, bit by bit; foreign bytes are refused."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from flexgroup.engine import plan_graph
from flexgroup.engine._serial import from_bytes, to_bytes
from flexgroup.graph import Clamp, from_torch, optimize
from flexgroup.kernels import host_target
from tests.engine.networks import PATTERNS, networks, prune


def same(a: object, b: object) -> bool:
    """Whether two trees of dataclasses are equal to the bit."""
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    if dataclasses.is_dataclass(a):
        return type(a) is type(b) and all(same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    if isinstance(a, tuple | list):
        return isinstance(b, tuple | list) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    return type(a) is type(b) and a == b


@settings(max_examples=25, deadline=None)
@given(networks(), st.sampled_from(PATTERNS), st.integers(1, 2))
def test_graphs_and_plans_come_back_as_they_were(case, pattern, threads):
    model, shape = case
    prune(model, pattern, 0.1)
    graph = optimize(from_torch(model, (torch.zeros(1, *shape),)))
    plan = plan_graph(graph, host_target(), threads=threads)
    assert same(graph, from_bytes(to_bytes(graph)))
    assert same(plan, from_bytes(to_bytes(plan)))


@given(arrays.arrays(st.sampled_from(["f4", "i4", "u1", "f8"]), st.tuples(st.integers(0, 9), st.integers(0, 9))))
def test_any_array_comes_back_bit_by_bit(array):
    assert same((array,), from_bytes(to_bytes((array,))))


def test_zeros_take_little_room_and_negative_zeros_stay_negative():
    array = np.zeros((256, 256), np.float32)
    array[3, 5], array[7, 9] = -0.0, np.inf
    data = to_bytes(array)
    assert len(data) < array.nbytes / 20
    assert same(array, from_bytes(data))


def test_writing_stops_at_the_limit():
    with pytest.raises(ValueError, match="more than 100 bytes"):
        to_bytes((np.ones(20, np.float32), np.ones(20, np.float32)), 100)
    assert len(to_bytes((np.ones(20, np.float32),), 100)) > 80


def test_infinite_bounds_come_back():
    assert from_bytes(to_bytes(Clamp(0.0))) == Clamp(0.0, float("inf"))


@dataclasses.dataclass(frozen=True)
class Foreign:
    value: int = 0


@pytest.mark.parametrize("value", [Foreign(), object(), {1, 2}, np.array([None])])
def test_only_objects_of_this_package_are_written(value):
    with pytest.raises(TypeError):
        to_bytes((value,))


@pytest.mark.parametrize(
    "header",
    [
        {"tree": {"class": 0, "fields": []}, "classes": ["os:system"], "arrays": []},
        {"tree": {"class": 0, "fields": []}, "classes": ["flexgroup.engine._serial:to_bytes"], "arrays": []},
        {"tree": {"class": 0, "fields": []}, "classes": ["flexgroup.graph.ir:Gone"], "arrays": []},
        {"tree": {"class": 0, "fields": [1, 2, 3]}, "classes": ["flexgroup.graph.ir:Clamp"], "arrays": []},
        {"tree": {"array": 0}, "classes": [], "arrays": [["<f4", [4], [[0, 64]]]]},
    ],
)
def test_bytes_that_do_not_fit_are_refused(header):
    text = json.dumps(header).encode()
    with pytest.raises(ValueError, match=r"."):
        from_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(ValueError, match=r"."):
        from_bytes(b"\x05\0\0\0\0\0\0\0nonsense")
