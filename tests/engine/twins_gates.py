"""Sums, products, gates, resizing and interleaving once more, slowly and readably, in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np

from flexgroup.kernels import ElementwiseKernel, InterleaveKernel, ResizeKernel
from tests.engine.twins_curves import activated


def elementwise(kernel: ElementwiseKernel, f: dict[str, int], memory: Any, lanes: int) -> None:
    count = f["vectors"] * lanes
    arena, mask = memory.view(f["arena"]), memory.view(f["mask"], memory.integer, count)
    tables = [memory.view(f[name], np.int32) // memory.size for name in ("first_inputs", "second_inputs", "outputs")]
    scale, shift = memory.read(f["scale"]), memory.read(f["shift"])
    for plane in range(f["first"], f["last"]):
        x, y = (arena[table[plane] :][:count].astype(np.float32) for table in tables[:2])
        value = {
            "add": lambda x, y, _: x + y,
            "mul": lambda x, y, _: x * y,
            "add_each": lambda x, y, _: x + y[0],
            "mul_each": lambda x, y, _: x * y[0],
            "affine": lambda x, _, plane: scale[plane] * x + shift[plane],
            "scale": lambda x, *_: scale[:count] * x + shift[:count],
        }[kernel.form](x, y, plane)
        arena[tables[2][plane] :][:count] = np.where(mask, activated(kernel, f, value), 0)


def resize(kernel: ResizeKernel, f: dict[str, int], memory: Any, lanes: int) -> None:
    """One number after another. Scratch is left alone: it is where a column's offset says which column that is."""
    arena, size = memory.view(f["arena"]), kernel.element.bytes
    inputs, outputs = (memory.view(f[name], np.int32) // size for name in ("inputs", "outputs"))
    row_taps, column_taps = f["row_taps"], f["column_taps"]
    row_offsets = memory.view(f["row_offsets"], np.int32) // size
    row_weights, column_weights = memory.read(f["row_weights"]), memory.read(f["column_weights"])
    columns = memory.view(f["column_offsets"], np.int32) // (lanes * kernel.element.register_bytes)
    mask = memory.view(f["mask"], memory.integer, lanes)
    places = memory.view(f["places"], np.int32, f["output_blocks"]) // size
    new_row = memory.view(f["new_row"], np.int32)
    for item in range(f["first"], f["last"]):
        block, band = divmod(item, f["bands"])
        for plane in range(block * lanes, (block + 1) * lanes):
            for row in range(band * f["band_rows"], min((band + 1) * f["band_rows"], f["rows"])):
                taps = slice(row * row_taps, (row + 1) * row_taps)
                if not new_row[row]:
                    before = slice(taps.start - row_taps, taps.start)
                    assert (row_offsets[taps] == row_offsets[before]).all()
                    assert (row_weights[taps] == row_weights[before]).all()
                width = f["input_blocks"] * lanes
                rows = [arena[inputs[plane] + offset :][:width].astype(np.float32) for offset in row_offsets[taps]]
                summed = sum(weight * values for weight, values in zip(row_weights[taps], rows, strict=True))
                for first, place in enumerate(places):
                    for lane in range(lanes):
                        at = [(first * column_taps + tap) * lanes + lane for tap in range(column_taps)]
                        value = sum(column_weights[i] * summed[columns[i]] for i in at) if mask[lane] else 0
                        arena[outputs[plane] + row * f["output_row"] // size + place + lane] = value


def interleave(kernel: InterleaveKernel, f: dict[str, int], memory: Any, lanes: int) -> None:
    read, written = (element.bytes for element in memory.moved(kernel))
    source, target = memory.view(f["source"], f"f{read}"), memory.view(f["target"], f"f{written}")
    from_planes, from_parts = (memory.view(f[name], np.int32) // read for name in ("from_planes", "from_parts"))
    to_planes, to_rows = (memory.view(f[name], np.int32) // written for name in ("to_planes", "to_rows"))
    for plane in range(f["first"], f["last"]):
        for row in range(f["rows"]):
            for part in range(kernel.parts):
                values = source[from_planes[plane] + from_parts[row * kernel.parts + part] :][: f["columns"]]
                out = to_planes[plane] + to_rows[row] + part
                target[out : out + f["columns"] * kernel.parts : kernel.parts] = values


TWINS = {ElementwiseKernel: elementwise, InterleaveKernel: interleave, ResizeKernel: resize}
