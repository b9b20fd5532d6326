"""Where the threads of a compiled network run."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from torch import nn

import flexgroup

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="needs two processors and a system that tells threads where to run",
)


@pytest.fixture
def processors() -> Iterator[set[int]]:
    """Where this thread may run, which is restored."""
    allowed = os.sched_getaffinity(0)
    yield allowed
    os.sched_setaffinity(0, allowed)


def compiled_for_two() -> flexgroup.CompiledModel:
    return flexgroup.compile(nn.Conv2d(3, 8, 3).eval(), (torch.zeros(1, 3, 32, 32),), threads=2)


def places(compiled: flexgroup.CompiledModel) -> set[int]:
    """Where the network's worker may run."""
    (worker,) = compiled._program._workers._threads
    return os.sched_getaffinity(worker.native_id)


def test_workers_keep_off_the_processor_of_whoever_calls(processors: set[int]) -> None:
    compiled, x = compiled_for_two(), torch.randn(1, 3, 32, 32)
    expected = compiled(x)
    for processor in sorted(processors)[:2]:
        os.sched_setaffinity(0, {processor})
        assert torch.equal(compiled(x), expected)
        assert places(compiled) == processors - {processor}


def test_workers_stay_with_the_caller_where_there_is_nowhere_else(processors: set[int]) -> None:
    only = {min(processors)}
    os.sched_setaffinity(0, only)
    compiled = compiled_for_two()
    compiled(torch.zeros(1, 3, 32, 32))
    assert places(compiled) == only


def test_a_system_that_forbids_it_is_left_alone(processors: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(thread: int, chosen: set[int]) -> None:
        raise PermissionError

    with monkeypatch.context() as patch:
        patch.setattr(os, "sched_setaffinity", forbidden)
        compiled = compiled_for_two()
        compiled(torch.zeros(1, 3, 32, 32))
    os.sched_setaffinity(0, {min(processors)})
    compiled(torch.zeros(1, 3, 32, 32))
    assert places(compiled) == processors
