"""Kernel families as LLVM IR. They know vectors and layouts, not networks; everything about a layer is data.

A kernel is a value (its family and what is compiled in) with a `name`, a `signature` of 64-bit argument fields, and
`emit`, which adds ``void name(i8** bases, i64* args)`` to an LLVM module.
"""

from __future__ import annotations

from typing import Protocol

from llvmlite import ir

from flexgroup.kernels.attention import AttentionKernel
from flexgroup.kernels.channels import ChannelsKernel
from flexgroup.kernels.conv import ConvKernel
from flexgroup.kernels.copy import CopyKernel
from flexgroup.kernels.depthwise import DepthwiseKernel
from flexgroup.kernels.elementwise import ElementwiseKernel
from flexgroup.kernels.emit import BASE_SHIFT, Signature
from flexgroup.kernels.fill import FillKernel
from flexgroup.kernels.gather import GatherKernel
from flexgroup.kernels.halo import HaloKernel
from flexgroup.kernels.interleave import InterleaveKernel
from flexgroup.kernels.linear import LinearKernel
from flexgroup.kernels.norm import LayerNormKernel
from flexgroup.kernels.peak import PeakKernel
from flexgroup.kernels.pool import MeanKernel, PoolKernel
from flexgroup.kernels.product import ProductKernel
from flexgroup.kernels.resize import ResizeKernel
from flexgroup.kernels.softmax import SoftmaxKernel
from flexgroup.kernels.sparse_linear import SparseLinearKernel
from flexgroup.kernels.target import (
    F16,
    F16_IN_F32,
    F32,
    LINE,
    TARGETS,
    Element,
    Target,
    host_target,
    runs_here,
    target_named,
)
from flexgroup.kernels.transform import TransformKernel
from flexgroup.kernels.transpose import TransposeKernel


class KernelSpec(Protocol):
    """What every kernel family offers; specs are frozen, hashable values."""

    @property
    def name(self) -> str: ...

    @property
    def signature(self) -> Signature: ...

    def emit(self, module: ir.Module, target: Target) -> None: ...


__all__ = [
    "BASE_SHIFT",
    "F16",
    "F16_IN_F32",
    "F32",
    "LINE",
    "TARGETS",
    "AttentionKernel",
    "ChannelsKernel",
    "ConvKernel",
    "CopyKernel",
    "DepthwiseKernel",
    "Element",
    "ElementwiseKernel",
    "FillKernel",
    "GatherKernel",
    "HaloKernel",
    "InterleaveKernel",
    "KernelSpec",
    "LayerNormKernel",
    "LinearKernel",
    "MeanKernel",
    "PeakKernel",
    "PoolKernel",
    "ProductKernel",
    "ResizeKernel",
    "Signature",
    "SoftmaxKernel",
    "SparseLinearKernel",
    "Target",
    "TransformKernel",
    "TransposeKernel",
    "host_target",
    "runs_here",
    "target_named",
]
