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


def test_workers_may_run_anywhere_where_there_are_as_many_as_processors(processors: set[int]) -> None:
    if len(processors) > 8:
        pytest.skip("too many processors to have a thread for each")
    conv, x = nn.Conv2d(3, 8, 3).eval(), torch.zeros(1, 3, 32, 32)
    compiled = flexgroup.compile(conv, (x,), threads=len(processors) + 1)
    compiled(x)
    workers = compiled._program._workers._threads
    assert all(os.sched_getaffinity(worker.native_id) == processors for worker in workers)


def test_what_others_say_of_where_workers_run_is_left_as_it_is(processors: set[int]) -> None:
    compiled, x = compiled_for_two(), torch.zeros(1, 3, 32, 32)
    (worker,) = compiled._program._workers._threads
    os.sched_setaffinity(0, {min(processors)})
    compiled(x)
    os.sched_setaffinity(worker.native_id, {min(processors)})
    os.sched_setaffinity(0, {max(processors)})
    compiled(x)
    assert places(compiled) == {min(processors)}


def test_a_system_that_forbids_it_is_left_alone(processors: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(thread: int, chosen: set[int]) -> None:
        raise PermissionError

    with monkeypatch.context() as patch:
        patch.setattr(os, "sched_setaffinity", forbidden)
        compiled = compiled_for_two()
        compiled(torch.zeros(1, 3, 32, 32))
    for processor in sorted(processors)[:2]:
        os.sched_setaffinity(0, {processor})
        compiled(torch.zeros(1, 3, 32, 32))
        assert places(compiled) == processors
