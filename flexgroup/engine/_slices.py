"""Convolutions in slices: some of the output channels, and at once what reads them plane by plane.

Depthwise layers, pools and the split into stride phases read every plane by itself. So they can follow slice by slice:
what is between stays in the second-level cache, and takes the memory of one slice. Unlike bands of rows (`_chains`)
slices are whole planes: no row is computed twice, and tiles are as long as they were. The price: inputs are read for
every slice, and groups that cross from one to the next are cut. Rows sum their groups in the order that they have in
the whole layer, so that results do not depend on slices.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from flexgroup.engine._conv_layers import conv_layer
from flexgroup.engine._layout import Image, Layout
from flexgroup.engine._operations import ConvOp, CopyOp, DepthwiseOp, Operation

if TYPE_CHECKING:
    from flexgroup.engine._steps import StepBuilder

STRIPS = (8, 4)  # channels of which slices are multiples: the highest strips, or half as high ones if those do not fit
SHARE = 0.4  # of the second-level caches of all threads, that a slice may take
LEAST_SHARED = 0.85  # of those caches: several threads hold most of what takes less, and gained nothing by slices
Slice: TypeAlias = tuple[ConvOp, DepthwiseOp | CopyOp]


def slices(builder: StepBuilder, producer: Operation, reader: Operation) -> list[Slice]:
    """Both operations slice by slice; empty where that is impossible, or where all fits the cache.

    The caller sees to it that nobody else uses what is between, and that the reader comes right after the producer.
    """
    if not isinstance(producer, ConvOp) or len(producer.matrices) > 1 or producer.block:
        return []
    if not isinstance(reader, DepthwiseOp | CopyOp) or not _is_planewise(reader, producer.out):
        return []
    layout, count = builder.layout, len(producer.out.planes)
    rows = conv_layer(builder, producer, producer.out.height).choice.rows
    each = _channels(builder, count, layout.plane_bytes(producer.out.planes[0].buffer), rows)
    if each >= count:
        return []
    return [_slice(layout, producer, reader, at, min(at + each, count)) for at in range(0, count, each)]


def _channels(builder: StepBuilder, count: int, plane: int, rows: int) -> int:
    """How many of ``count`` channels a slice has, of so many bytes each, in strips of ``rows``: all are as large."""
    caches = builder.target.cache_bytes * builder.threads
    if builder.threads > 1 and count * plane < LEAST_SHARED * caches:
        return count
    most = SHARE * caches / plane
    height = next((strip for strip in STRIPS if strip <= most and strip % rows == 0), count)
    parts = -(-count // max(int(most // height), 1) // height)
    return -(-count // parts // height) * height


def _is_planewise(reader: DepthwiseOp | CopyOp, image: Image) -> bool:
    """Whether ``reader`` reads one plane of ``image`` for every one, or for every phase of one, that it writes."""
    if isinstance(reader, DepthwiseOp):
        return reader.inputs.planes == image.planes
    return (
        isinstance(reader.target, Image) and isinstance(reader.source, Image) and reader.source.planes == image.planes
    )


def _slice(layout: Layout, producer: ConvOp, reader: DepthwiseOp | CopyOp, first: int, last: int) -> Slice:
    """Channels first..last (exclusive) of both operations, with a buffer of their own between them."""

    def part(image: Image) -> Image:
        """These channels of every run of as many planes as the producer has."""
        count = len(producer.out.planes)
        return replace(image, planes=tuple(p for i, p in enumerate(image.planes) if first <= i % count < last))

    between = layout.slice(producer.out, last - first)
    made = replace(
        producer,
        matrices=(producer.matrices[0][first:last],),
        bias=producer.bias[first:last],
        out=between,
        residual=None if producer.residual is None else part(producer.residual),
        whole=producer,
        first=first,
    )
    if isinstance(reader, DepthwiseOp):
        weight, bias = reader.weight[first:last], reader.bias[first:last]
        return made, replace(reader, weight=weight, bias=bias, inputs=between, out=part(reader.out))
    assert isinstance(reader.target, Image), "readers were asked"
    return made, replace(reader, source=between, target=part(reader.target), planes=last - first)


def share_read(op: ConvOp) -> float:
    """Of the planes that a convolution could read, the share for which it has weights that are not zero."""
    wanted = np.flatnonzero(op.matrices[0].any(axis=0))
    return len({op.taps[0][column].plane for column in wanted}) / max(1, len({tap.plane for tap in op.taps[0]}))
