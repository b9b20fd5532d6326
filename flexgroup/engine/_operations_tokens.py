"""Operations on tokens: what `_operations` does for images, for sequences and attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from flexgroup.engine._layout import External, Image, Vector
from flexgroup.engine._view import Indices, Source
from flexgroup.graph.ir import Array


@dataclass(frozen=True, eq=False)
class GatherOp:
    """Element (i, j) of ``target``, found at ``to_rows[i] + to_columns[j]``, from ``from_rows[i] + from_columns[j]``.

    All four are (plane, row, column) indices, (3, n) each.
    """

    name: str
    source: Source
    target: Image | Vector | External
    from_rows: Indices
    from_columns: Indices
    to_rows: Indices
    to_columns: Indices


@dataclass(frozen=True, eq=False)
class LayerNormOp:
    """``weight * (x - mean) / sqrt(variance + eps) + bias`` over the planes of ``x``, at every position.

    What is not ``centred`` takes the mean for zero.
    """

    name: str
    weight: Array
    bias: Array
    eps: float
    centred: bool
    x: Image
    out: Image


@dataclass(frozen=True)
class SoftmaxOp:
    """Softmax over the planes of every block of ``x``, at every position."""

    name: str
    x: Image
    out: Image
    blocks: int


@dataclass(frozen=True, eq=False)
class ProductOp:
    """``scale`` times a product of two activations, for every block of a batch.

    With block b's planes, ``out[i] = sum over k of entry(i, k) * x[k]``, position by position. ``entry(i, k)`` is a
    number of ``entries``: position i of plane k if they are ``transposed``, position k of plane i otherwise.
    """

    name: str
    entries: Image
    x: Image
    out: Image
    blocks: int
    transposed: bool
    scale: float


@dataclass(frozen=True, eq=False)
class AttentionOp:
    """Attention of every position of ``query`` to the positions of ``key`` and ``value``, for every head.

    An image has the planes of one head after those of another. ``scratch`` holds the weights of one tile of queries a
    thread. ``mask`` (heads or 1, queries, keys) and ``by_key``, a number for every key, are added to the scores.
    """

    name: str
    query: Image
    key: Image
    value: Image
    out: Image
    scratch: Vector
    heads: int
    scale: float
    mask: Array | None
    by_key: Vector | None


TokenOperation: TypeAlias = GatherOp | LayerNormOp | SoftmaxOp | ProductOp | AttentionOp


def token_values(operation: TokenOperation) -> list[Source]:
    """What an operation reads and writes."""
    if isinstance(operation, GatherOp):
        return [operation.source, operation.target]
    if isinstance(operation, LayerNormOp | SoftmaxOp):
        return [operation.x, operation.out]
    if isinstance(operation, ProductOp):
        return [operation.entries, operation.x, operation.out]
    by_key = [] if operation.by_key is None else [operation.by_key]
    return [operation.query, operation.key, operation.value, operation.out, operation.scratch, *by_key]
