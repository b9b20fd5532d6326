"""Kernel families as LLVM IR. They know vectors and layouts, not networks; everything about a layer is data.

A kernel is a value (its family and what is compiled in) with a `name`, a `signature` of 64-bit argument fields, and
`emit`, which adds ``void name(i8** bases, i64* args)`` to an LLVM module.
"""

from __future__ import annotations

from typing import Protocol

from llvmlite import ir

from flexgroup.kernels.conv import ConvKernel
from flexgroup.kernels.copy import CopyKernel
from flexgroup.kernels.elementwise import ElementwiseKernel
from flexgroup.kernels.emit import BASE_SHIFT, Signature
from flexgroup.kernels.linear import LinearKernel
from flexgroup.kernels.peak import PeakKernel
from flexgroup.kernels.pool import MeanKernel, PoolKernel
from flexgroup.kernels.target import F32, TARGETS, Element, Target, host_target, runs_here, target_named


class KernelSpec(Protocol):
    """What every kernel family offers; specs are frozen, hashable values."""

    @property
    def name(self) -> str: ...

    @property
    def signature(self) -> Signature: ...

    def emit(self, module: ir.Module, target: Target) -> None: ...


__all__ = [
    "BASE_SHIFT",
    "F32",
    "TARGETS",
    "ConvKernel",
    "CopyKernel",
    "Element",
    "ElementwiseKernel",
    "KernelSpec",
    "LinearKernel",
    "MeanKernel",
    "PeakKernel",
    "PoolKernel",
    "Signature",
    "Target",
    "host_target",
    "runs_here",
    "target_named",
]
