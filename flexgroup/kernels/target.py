"""What a kernel may know of the machine it is compiled for: a handful of numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import llvmlite.binding as llvm
from llvmlite import ir

from flexgroup._errors import FlexgroupError

LINE = 64  # bytes of a cache line


@dataclass(frozen=True)
class Element:
    """How numbers are stored in memory, and what they are multiplied and added in."""

    name: str
    bytes: int  # of a number in memory
    register_bytes: int  # of a number in a register: what arithmetic rounds to

    @property
    def computed(self) -> ir.Type:
        """The type of a number in a register."""
        return _FLOATS[self.register_bytes]

    @property
    def ir(self) -> ir.Type:
        """The type of a number in memory."""
        return _FLOATS[self.bytes]

    @property
    def converts(self) -> bool:
        """Whether numbers change their type on the way between memory and registers."""
        return self.bytes != self.register_bytes


_FLOATS = {2: ir.HalfType(), 4: ir.FloatType()}

F32 = Element("f32", 4, 4)
F16 = Element("f16", 2, 2)
F16_IN_F32 = Element("f16_in_f32", 2, 4)  # stored in 16 bits, multiplied and added in 32


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
    half: str = ""  # what instructions do with numbers of 16 bits: "converts" them to 32 and back, or "arithmetic" too
    first_cache_bytes: int = 32 << 10  # of its first-level cache of data
    in_order: bool = False  # whether code is arranged for cores that wait where an operand is not there yet

    @property
    def keeps_nan(self) -> bool:
        """Whether one instruction gives the larger or smaller of two numbers, and NaN if one is."""
        return self.triple.startswith(("aarch64", "arm64"))

    @property
    def has_masks(self) -> bool:
        """Whether one instruction loads or stores some lanes of a vector, and touches nothing else."""
        return self.vector_bytes == LINE and self.triple.startswith("x86_64")

    def lanes(self, element: Element) -> int:
        """Numbers in a vector register."""
        return self.vector_bytes // element.register_bytes


_AVX512 = "+avx512f,+avx512vl,+avx512bw,+avx512dq,+avx2,+fma,+bmi2,-prefer-256-bit"
_X86_FEATURES = {
    "x86-64-avx512-fp16": f"+avx512fp16,{_AVX512}",
    "x86-64-avx512": _AVX512,
    "x86-64-avx2": "+avx2,+fma,+bmi2",
    "x86-64": "",
}


def _x86(name: str, cpu: str, vector_bytes: int, registers: int, half: str) -> Target:
    triple, has_fma = "x86_64-unknown-linux-gnu", vector_bytes > 16
    first = (48 if vector_bytes > 32 else 32) << 10
    features = _X86_FEATURES[name]
    return Target(name, triple, cpu, features, vector_bytes, registers, has_fma, half=half, first_cache_bytes=first)


def _aarch64(name: str, triple: str, cpu: str, features: str = "+neon", in_order: bool = False) -> Target:
    half, first = "arithmetic", 64 << 10
    return Target(name, triple, cpu, features, 16, 32, True, half=half, first_cache_bytes=first, in_order=in_order)


def _little(name: str, triple: str) -> Target:
    """Code for a phone's little cores, which run instructions in order, is as fast on its big ones; not the reverse."""
    return _aarch64(name, triple, "cortex-a55", "+neon,+slow-paired-128", in_order=True)


TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        _x86("x86-64-avx512-fp16", "sapphirerapids", 64, 32, "arithmetic"),
        _x86("x86-64-avx512", "x86-64-v4", 64, 32, "converts"),
        _x86("x86-64-avx2", "x86-64-v3", 32, 16, "converts"),
        _x86("x86-64", "x86-64", 16, 16, ""),
        _little("aarch64-linux", "aarch64-unknown-linux-gnu"),
        _little("aarch64-android", "aarch64-linux-android24"),
        _aarch64("aarch64-ios", "arm64-apple-ios13.0", "apple-a12"),
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
        cache, first = _cache_bytes(2) or 512 << 10, _cache_bytes(0) or 64 << 10
        cpu = llvm.get_host_cpu_name()
        has_half = computes_half(cpu, llvm.get_host_cpu_features(), _read("/proc/cpuinfo"))
        features, half = ("+neon,+fullfp16", "arithmetic") if has_half else ("+neon", "converts")
        return Target("host-aarch64", triple, cpu, features, 16, 32, True, cache, half, first)
    if not triple.startswith("x86_64"):
        return Target("host-portable", triple, llvm.get_host_cpu_name(), "", 16, 16, False)
    base = next(TARGETS[name] for name in _X86_FEATURES if runs_here(TARGETS[name]))
    cpu = llvm.get_host_cpu_name() if base.vector_bytes > 16 else base.cpu
    # Virtual machines may hide instructions that every processor of a level has.
    half = base.half if llvm.get_host_cpu_features().get("f16c", False) else ""
    caches = _cache_bytes(2) or base.cache_bytes, _cache_bytes(0) or base.first_cache_bytes
    return replace(base, triple=triple, cpu=cpu, cache_bytes=caches[0], half=half, first_cache_bytes=caches[1])


def computes_half(cpu: str, features: Mapping[str, bool], cpuinfo: str) -> bool:
    """Whether an AArch64 processor has fp16 arithmetic, by what LLVM and Linux say of it.

    LLVM does not tell of every system's processors; Apple's all have it.
    """
    flags = [line.partition(":")[2].split() for line in cpuinfo.splitlines() if line.startswith("Features")]
    return features.get("fullfp16", False) or cpu.startswith("apple-") or any("asimdhp" in each for each in flags)


def _read(path: str) -> str:
    """The text of a file of the system's; nothing where there is none."""
    try:
        return Path(path).read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def _cache_bytes(index: int) -> int:
    """Bytes of a cache of this machine's first core, 0 where the system does not tell.

    Linux numbers them: 0 is the first level's for data, 2 the second level.
    """
    text = _read(f"/sys/devices/system/cpu/cpu0/cache/index{index}/size").strip()
    units = {"K": 1 << 10, "M": 1 << 20}
    return int(text[:-1]) * units[text[-1]] if text[:-1].isdecimal() and text[-1] in units else 0
