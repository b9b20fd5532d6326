"""Code for fp16 numbers: instructions that convert or compute where the target has them, and no library calls."""

from __future__ import annotations

import re

import pytest

from flexgroup.engine._objects import assembly
from flexgroup.kernels import (
    F16,
    F16_IN_F32,
    F32,
    TARGETS,
    AttentionKernel,
    ChannelsKernel,
    ConvKernel,
    CopyKernel,
    DepthwiseKernel,
    Element,
    ElementwiseKernel,
    FillKernel,
    GatherKernel,
    HaloKernel,
    InterleaveKernel,
    LayerNormKernel,
    LinearKernel,
    MeanKernel,
    PoolKernel,
    ProductKernel,
    ResizeKernel,
    SoftmaxKernel,
    SparseLinearKernel,
    TransposeKernel,
)
from flexgroup.kernels.target import computes_half

CODE = [("aarch64-linux", F16), ("aarch64-linux", F16_IN_F32), ("x86-64-avx2", F16_IN_F32)]
CODE += [("x86-64-avx512", F16_IN_F32), ("x86-64-avx512-fp16", F16)]


def kernels(element: Element) -> list:
    return [
        ConvKernel("ring", 4, 3, True, element, "gelu"),
        ConvKernel("strip", 2, 4, False, element),
        ConvKernel("dense", 8, 1, False, element),
        ConvKernel("ring", 2, 5, True, element, in_place=True, tail=2),
        ConvKernel("ring", 4, 2, True, element, held=2, pitch=72),
        ConvKernel("dense", 4, 2, False, element, held=1, pitch=72),
        ChannelsKernel(2, 3, 1, True, element, "gelu"),
        DepthwiseKernel("down", 3, 3, (1, 1), element=element),
        DepthwiseKernel("along", 3, 3, (2, 2), rows=2, element=element),
        DepthwiseKernel("linear", 3, 3, element=element, reduce="max"),
        PoolKernel("max", element),
        PoolKernel("mean", element),
        MeanKernel(element),
        LinearKernel(2, element),
        SparseLinearKernel("columns", 8, element),
        SparseLinearKernel("rows", 8, element),
        *(ElementwiseKernel(form, element, "silu") for form in ("add", "mul_each", "affine", "scale")),
        ResizeKernel(element),
        SoftmaxKernel(2, element),
        LayerNormKernel(2, True, element),
        ProductKernel(True, 4, 2, element),
        AttentionKernel(4, 2, True, True, element),
        FillKernel(element),
        HaloKernel(6, element),
        *(CopyKernel(step, *sides) for step in (1, 2, 3) for sides in moves(element)),
        *(GatherKernel(*sides) for sides in moves(element)),
        *(InterleaveKernel(2, *sides) for sides in moves(element)),
        *(CopyKernel(parts, *sides, parts) for parts in (2, 4, 16) for sides in moves(element)),
        *(TransposeKernel(8, *sides) for sides in moves(element)),
    ]


def moves(element: Element) -> list[tuple[Element, Element | None]]:
    """Between activations, and from and to the caller's arrays."""
    return [(element, None), (F32, element), (element, F32)]


def inner_loop(text: str) -> str:
    """The block with the most multiply-adds."""
    return max(re.split(r"\n\.?L[\w.]+:", text), key=lambda block: len(re.findall(r"\bv?fm(?:la|add)", block)))


@pytest.mark.parametrize(("target", "element"), CODE, ids=[f"{target}-{element.name}" for target, element in CODE])
def test_no_kernel_calls_a_library(target, element):
    text = assembly(kernels(element), TARGETS[target])
    assert not re.findall(r"^\s+(?:callq?|bl|blr)\s+.*$", text, re.MULTILINE)
    assert len({kernel.name for kernel in kernels(element)}) == len(kernels(element))


@pytest.mark.parametrize(
    ("target", "element", "wanted", "unwanted"),
    [
        ("aarch64-linux", F16, r"fmla\s+v\d+\.8h", r"fcvt"),
        ("aarch64-linux", F16_IN_F32, r"fmla\s+v\d+\.4s", r"\.8h"),
        ("x86-64-avx512-fp16", F16, r"vfmadd\w+ph\s+%zmm", r"vcvt"),
        ("x86-64-avx512", F16_IN_F32, r"vfmadd\w+ps\s+%zmm", r"vcvtps2ph|vpinsrw"),
        ("x86-64-avx2", F16_IN_F32, r"vfmadd\w+ps\s+%ymm", r"vcvtps2ph|vpinsrw"),
    ],
)
def test_the_inner_loop_multiplies_in_the_type_that_was_chosen(target, element, wanted, unwanted):
    rows, tile = 4, 2
    loop = inner_loop(assembly([ConvKernel("strip", rows, tile, False, element)], TARGETS[target]))
    assert len(re.findall(wanted, loop)) == rows * tile
    assert not re.findall(unwanted, loop)


@pytest.mark.parametrize("target", ["x86-64-avx2", "x86-64-avx512"])
def test_activations_are_converted_as_they_are_loaded_and_weights_once_spread(target):
    rows, tile = 4, 2
    loop = inner_loop(assembly([ConvKernel("strip", rows, tile, False, F16_IN_F32)], TARGETS[target]))
    assert len(re.findall(r"vcvtph2ps\s+\d*\(", loop)) == tile
    assert len(re.findall(r"vpbroadcastw", loop)) == rows
    assert len(re.findall(r"vcvtph2ps", loop)) == rows + tile


@pytest.mark.parametrize(
    ("cpu", "features", "cpuinfo", "has"),
    [
        ("neoverse-n1", {"fullfp16": True}, "", True),
        ("generic", {}, "processor\t: 0\nFeatures\t: fp asimd fphp asimdhp\n", True),
        ("apple-m1", {}, "", True),
        ("cortex-a72", {"neon": True, "fullfp16": False}, "Features\t: fp asimd evtstrm\nmodel: asimdhp", False),
    ],
)
def test_fp16_arithmetic_of_aarch64_processors_is_found(cpu, features, cpuinfo, has):
    assert computes_half(cpu, features, cpuinfo) == has


def test_long_sums_are_added_in_32_bits_on_targets_with_fp16_arithmetic():
    for kernel in (
        MeanKernel(F16),
        LinearKernel(2, F16),
        SparseLinearKernel("rows", 8, F16),
        ProductKernel(True, 4, 2, F16),
    ):
        text = assembly([kernel], TARGETS["aarch64-linux"])
        assert not re.findall(r"f(?:mla|add)\s+v\d+\.8h", text), kernel.name
        assert re.findall(r"f(?:mla|add)\s+v\d+\.4s", text), kernel.name
