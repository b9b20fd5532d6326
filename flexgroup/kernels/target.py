"""What a kernel may know of the machine it is compiled for: a handful of numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import llvmlite.binding as llvm
from llvmlite import ir

from flexgroup._errors import FlexgroupError


@dataclass(frozen=True)
class Element:
    """A floating-point type that activations and weights are stored and multiplied in."""

    name: str
    bytes: int

    @property
    def ir(self) -> ir.Type:
        return ir.HalfType() if self.bytes == 2 else ir.FloatType()


F32 = Element("f32", 4)


@dataclass(frozen=True)
class Target:
    """A processor: LLVM's names for it, and what decides how a kernel is cut."""

    name: str
    triple: str
    cpu: str
    features: str
    vector_bytes: int
    vector_registers: int
    has_fma: bool
    cache_bytes: int = 512 << 10  # of a core's own second-level cache: what passes between fused layers fits half of it

    def lanes(self, element: Element) -> int:
        return self.vector_bytes // element.bytes


_X86_FEATURES = {
    "x86-64-avx512": "+avx512f,+avx512vl,+avx512bw,+avx512dq,+avx2,+fma,+bmi2,-prefer-256-bit",
    "x86-64-avx2": "+avx2,+fma,+bmi2",
    "x86-64": "",
}

TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target("x86-64-avx512", "x86_64-unknown-linux-gnu", "x86-64-v4", _X86_FEATURES["x86-64-avx512"], 64, 32, True),
        Target("x86-64-avx2", "x86_64-unknown-linux-gnu", "x86-64-v3", _X86_FEATURES["x86-64-avx2"], 32, 16, True),
        Target("x86-64", "x86_64-unknown-linux-gnu", "x86-64", "", 16, 16, False),
        Target("aarch64-linux", "aarch64-unknown-linux-gnu", "cortex-a76", "+neon", 16, 32, True),
        Target("aarch64-android", "aarch64-linux-android24", "cortex-a76", "+neon", 16, 32, True),
        Target("aarch64-ios", "arm64-apple-ios13.0", "apple-a12", "+neon", 16, 32, True),
        Target("wasm32", "wasm32-unknown-unknown", "generic", "+simd128", 16, 16, False),
    )
}


def target_named(name: str) -> Target:
    """The target called ``name``; raises `FlexgroupError` with the known names for any other."""
    if name not in TARGETS:
        raise FlexgroupError(f"unknown target {name!r}; known targets: host, {', '.join(TARGETS)}")
    return TARGETS[name]


def runs_here(target: Target) -> bool:
    """Whether this machine has the processor and the instructions that ``target`` asks for."""
    here = llvm.get_process_triple().split("-")[0].replace("arm64", "aarch64")
    if target.triple.split("-")[0].replace("arm64", "aarch64") != here:
        return False
    features = llvm.get_host_cpu_features()
    wanted = [flag[1:] for flag in _X86_FEATURES.get(target.name, "").split(",") if flag.startswith("+")]
    return all(features.get(flag, False) for flag in wanted)


def host_target() -> Target:
    """The best target for the machine at hand: AVX-512, AVX2, or portable 128-bit vectors."""
    triple = llvm.get_process_triple()
    if triple.startswith(("aarch64", "arm64")):
        cache = _cache_bytes() or 512 << 10
        return Target("host-aarch64", triple, llvm.get_host_cpu_name(), "+neon", 16, 32, True, cache)
    if not triple.startswith("x86_64"):
        return Target("host-portable", triple, llvm.get_host_cpu_name(), "", 16, 16, False)
    base = next(TARGETS[name] for name in _X86_FEATURES if runs_here(TARGETS[name]))
    cpu = llvm.get_host_cpu_name() if base.vector_bytes > 16 else base.cpu
    return replace(base, triple=triple, cpu=cpu, cache_bytes=_cache_bytes() or base.cache_bytes)


def _cache_bytes() -> int:
    """Bytes of the second-level cache of this machine's first core, 0 where the system does not tell."""
    try:
        text = Path("/sys/devices/system/cpu/cpu0/cache/index2/size").read_text(encoding="ascii").strip()
    except OSError:
        return 0
    units = {"K": 1 << 10, "M": 1 << 20}
    return int(text[:-1]) * units[text[-1]] if text[:-1].isdecimal() and text[-1] in units else 0
