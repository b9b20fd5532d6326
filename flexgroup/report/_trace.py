"""One run of a compiled network as a timeline that Perfetto and ``chrome://tracing`` show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flexgroup.report._files import write_whole

if TYPE_CHECKING:
    from flexgroup.engine import Profile

PROCESS = 1


def trace_document(profile: Profile) -> dict[str, Any]:
    """The kernel calls of ``profile`` in Chrome's trace format: complete events, in microseconds, a row a thread."""
    threads = sorted({call.thread for call in profile.calls})
    names = [_metadata("process_name", 0, "flexgroup")]
    names += [_metadata("thread_name", thread, f"thread {thread}") for thread in threads]
    calls = [
        {
            "name": call.name,
            "cat": call.kernel.partition("_")[0],
            "ph": "X",
            "ts": call.start * 1e6,
            "dur": call.seconds * 1e6,
            "pid": PROCESS,
            "tid": call.thread,
            "args": {"kernel": call.kernel, "macs": call.macs, "bytes": call.bytes},
        }
        for call in profile.calls
    ]
    return {"traceEvents": [*names, *calls], "displayTimeUnit": "ns"}


def _metadata(kind: str, thread: int, name: str) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "pid": PROCESS, "tid": thread, "args": {"name": name}}


def write_trace(profile: Profile, path: Path) -> None:
    """Write the timeline to ``path``; a failure leaves ``path`` as it was."""
    write_whole(path, json.dumps(trace_document(profile)) + "\n")
