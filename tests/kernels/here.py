"""The targets whose code runs on the machine at hand."""

from __future__ import annotations

from flexgroup.kernels import TARGETS, Target, host_target, runs_here

HOST = host_target()
_WIDE = [name for name in ("x86-64-avx512-fp16", "x86-64-avx512") if runs_here(TARGETS[name])][:1]
_NAMES = [*_WIDE, *(name for name in ("x86-64-avx2", "x86-64") if runs_here(TARGETS[name]))]
HERE: dict[str, Target] = {name: TARGETS[name] for name in _NAMES} or {"host": HOST}
