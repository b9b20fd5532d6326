"""The kernels for tokens and for sparse linear layers once more, slowly and readably, in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np

from flexgroup.kernels import (
    AttentionKernel,
    GatherKernel,
    LayerNormKernel,
    ProductKernel,
    SoftmaxKernel,
    SparseLinearKernel,
    TransposeKernel,
)
from tests.engine.twins_curves import activated, number


def gather(kernel: GatherKernel, f: dict[str, int], memory: Any, lanes: int) -> None:
    read, written = (element.bytes for element in memory.moved(kernel))
    source, target = memory.view(f["source"], f"f{read}"), memory.view(f["target"], f"f{written}")
    from_rows, from_columns = (memory.view(f[name], np.int32) // read for name in ("from_rows", "from_columns"))
    to_rows, to_columns = (memory.view(f[name], np.int32) // written for name in ("to_rows", "to_columns"))
    for i in range(f["first"], f["last"]):
        for j in range(f["columns"]):
            target[to_rows[i] + to_columns[j]] = source[from_rows[i] + from_columns[j]]


def transpose(kernel: TransposeKernel, f: dict[str, int], memory: Any, lanes: int) -> None:
    read, written = (element.bytes for element in memory.moved(kernel))
    source, target = memory.view(f["source"], f"f{read}"), memory.view(f["target"], f"f{written}")
    from_columns = memory.view(f["from_columns"], np.int32, f["columns"]) // read
    to_rows = memory.view(f["to_rows"], np.int32, f["rows"]) // written
    for block in range(f["first"], f["last"]):
        first = min(block * kernel.size, f["rows"] - kernel.size)
        for i in range(first, first + kernel.size):
            target[to_rows[i] : to_rows[i] + f["columns"]] = source[from_columns + i]


def layer_norm(kernel: LayerNormKernel, f: dict[str, int], memory: Any, lanes: int) -> None:
    arena, width, planes = memory.view(f["arena"]), kernel.tile * lanes, f["planes"]
    inputs, outputs = (memory.view(f[name], np.int32, planes) // memory.size for name in ("inputs", "outputs"))
    weight, bias = (memory.read(f[name], planes)[:, None] for name in ("weight", "bias"))
    mask = memory.view(f["mask"], memory.integer)
    assert np.isclose(number(f["scale"]), 1 / planes)
    for tile in range(f["first"], f["last"]):
        start = min(tile * kernel.tile, f["last_start"]) * lanes
        x = np.stack([arena[plane + start :][:width].astype(np.float32) for plane in inputs])
        centred = x - x.mean(0) if kernel.centred else x
        y = centred / np.sqrt((centred**2).mean(0) + number(f["eps"])) * weight + bias
        for plane, row in zip(outputs, y, strict=True):
            arena[plane + start :][:width] = np.where(mask[start : start + width], row, 0)


def softmax(kernel: SoftmaxKernel, f: dict[str, int], memory: Any, lanes: int) -> None:
    arena, width, planes = memory.view(f["arena"]), kernel.tile * lanes, f["planes"]
    inputs, outputs = (memory.view(f[name], np.int32) // memory.size for name in ("inputs", "outputs"))
    mask = memory.view(f["mask"], memory.integer)
    for item in range(f["first"], f["last"]):
        block, tile = divmod(item, f["tiles"])
        start = min(tile * kernel.tile, f["last_start"]) * lanes
        x = np.stack([arena[plane + start :][:width].astype(np.float32) for plane in inputs[block * planes :][:planes]])
        y = np.exp(x - x.max(0))
        for plane, row in zip(outputs[block * planes :][:planes], y / y.sum(0), strict=True):
            arena[plane + start :][:width] = np.where(mask[start : start + width], row, 0)


def product(kernel: ProductKernel, f: dict[str, int], memory: Any, lanes: int) -> None:
    arena, width, rows, sums = memory.view(f["arena"]), kernel.tile * lanes, f["rows"], f["sums"]
    entries, inputs, outputs = (
        memory.view(f[name], np.int32) // memory.size for name in ("entries", "inputs", "outputs")
    )
    mask = memory.view(f["mask"], memory.integer)
    assert rows >= kernel.rows
    for item in range(f["first"], f["last"]):
        block, tile = divmod(item, f["tiles"])
        start = min(tile * kernel.tile, f["last_start"]) * lanes
        x = np.stack([arena[plane + start :][:width].astype(np.float32) for plane in inputs[block * sums :][:sums]])
        if kernel.transposed:
            matrix = np.stack([arena[plane:][:rows].astype(np.float32) for plane in entries[block * sums :][:sums]]).T
        else:
            matrix = np.stack([arena[plane:][:sums].astype(np.float32) for plane in entries[block * rows :][:rows]])
        for plane, row in zip(outputs[block * rows :][:rows], number(f["scale"]) * (matrix @ x), strict=True):
            arena[plane + start :][:width] = np.where(mask[start : start + width], row, 0)


def attention(kernel: AttentionKernel, f: dict[str, int], memory: Any, lanes: int) -> None:
    arena, width = memory.view(f["arena"]), kernel.tile * lanes
    depth, features, count = f["query_planes"], f["value_planes"], f["key_count"]
    tables = {name: memory.view(f[name], np.int32) // memory.size for name in ("queries", "keys", "values", "outputs")}
    mask = memory.view(f["mask"], memory.integer)
    assert min(count, features) >= kernel.rows
    for item in range(f["first"], f["last"]):
        head, tile = divmod(item, f["tiles"])
        start = min(tile * kernel.tile, f["last_start"]) * lanes
        query = np.stack(
            [arena[plane + start :][:width].astype(np.float32) for plane in tables["queries"][head * depth :][:depth]]
        )
        key = np.stack([arena[plane:][:count].astype(np.float32) for plane in tables["keys"][head * depth :][:depth]])
        value = np.stack(
            [arena[plane:][:count].astype(np.float32) for plane in tables["values"][head * features :][:features]]
        )
        scores = number(f["scale"]) * (key.T @ query)
        if kernel.masked:
            added = memory.view(f["scores_mask"], np.float32)
            at = head * f["head_mask"] // 4 + start
            scores += np.stack([added[at + j * f["key_mask"] // 4 :][:width] for j in range(count)])
        if kernel.by_key:
            scores += memory.read(f["by_key"], count)[:, None]
        weights = np.exp(scores - scores.max(0))
        result = value @ (weights / weights.sum(0))
        for plane, row in zip(tables["outputs"][head * features :][:features], result, strict=True):
            arena[plane + start :][:width] = np.where(mask[start : start + width], row, 0)


def sparse_linear(kernel: SparseLinearKernel, f: dict[str, int], memory: Any, lanes: int) -> None:
    size = kernel.size
    x, scratch = memory.read(f["input"]), {}
    ends, places, offsets = (memory.view(f[name], np.int32) for name in ("ends", "places", "offsets"))
    groups = ends[f["last"] - 1] if f["last"] else 0
    weights = memory.read(f["weights"], groups * size).reshape(-1, size)
    for line in range(f["first"], f["last"]):
        row = places[line] // 4  # sums have 32 bits
        for group in range(ends[line - 1] if line else 0, ends[line]):
            first = offsets[group] // memory.size
            if kernel.form == "columns":
                for i, value in enumerate(weights[group] * x[first]):
                    scratch[row + i] = scratch.get(row + i, 0) + value
            else:
                scratch[row] = scratch.get(row, 0) + weights[group] @ x[first : first + size]
    rows = range(f["first_vector"] * lanes, f["last_vector"] * lanes)
    sums = np.array([scratch.get(row, 0) for row in rows], np.float32)
    value = sums + memory.read(f["bias"])[rows.start : rows.stop]
    memory.view(f["output"])[rows.start : rows.stop] = activated(kernel, f, value)


TWINS = {
    GatherKernel: gather,
    TransposeKernel: transpose,
    LayerNormKernel: layer_norm,
    SoftmaxKernel: softmax,
    ProductKernel: product,
    AttentionKernel: attention,
    SparseLinearKernel: sparse_linear,
}
