"""Which class of machine this is: enough to judge a latency, nothing that names the machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterable
from pathlib import Path

from flexgroup.report._results import Machine


def this_machine(packages: Iterable[str] = ("torch", "numpy", "llvmlite", "onnxruntime")) -> Machine:
    """CPU model, cores this process may use, operating system, and versions of flexgroup and ``packages``."""
    import flexgroup

    versions = {"flexgroup": flexgroup.__version__, "python": platform.python_version()}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    system = f"{platform.system()} {platform.machine()}"
    return Machine(cpu=cpu_model(), cores=available_cores(), system=system, versions=versions)


def available_cores() -> int:
    """Cores that this process may run on, which in a container are fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's own name, with its widest vector instructions where Linux tells them."""
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    pairs = [line.partition(":") for line in reversed(lines)]  # reversed: the first core has the last word
    facts = {key.strip(): value.strip() for key, _, value in pairs}
    model = facts.get("model name") or facts.get("Model") or platform.machine()
    flags = set(facts.get("flags", "").split()) | set(facts.get("Features", "").split())
    vectors = [name for flag, name in _VECTORS if flag in flags]
    return f"{model}, {vectors[0]}" if vectors else model


_VECTORS = (("avx512f", "AVX-512"), ("avx2", "AVX2"), ("sve", "SVE"), ("asimd", "NEON"), ("sse4_2", "SSE4.2"))
