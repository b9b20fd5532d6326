"""From operations to steps: every table of offsets, packed weight and mask that the kernels read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from flexgroup.engine._choose import HEIGHTS, Choice, Chooser, Layer
from flexgroup.engine._layout import SINK, External, Image, Layout, PlaneRef, Vector
from flexgroup.engine._operations import (
    ConvOp,
    CopyOp,
    ElementwiseOp,
    LinearOp,
    MeanOp,
    Operation,
    PoolOp,
    Tap,
)
from flexgroup.engine._plan import ARENA, FIRST_EXTERNAL, Constants, Step, number, reference
from flexgroup.kernels import (
    CopyKernel,
    Element,
    ElementwiseKernel,
    KernelSpec,
    LinearKernel,
    MeanKernel,
    PoolKernel,
    Target,
)
from flexgroup.kernels.conv import PackedRows, pack
from flexgroup.kernels.linear import UNROLL, pack_linear

Fields = dict[str, int]


class StepBuilder:
    """Turns placed operations into steps and collects their constants."""

    def __init__(
        self,
        layout: Layout,
        target: Target,
        element: Element,
        *,
        threads: int,
        sparse: bool,
        inputs: int,
        chooser: Chooser,
    ) -> None:
        self.layout = layout
        self.target = target
        self.element = element
        self.threads = threads
        self.sparse = sparse
        self.constants = Constants()
        self._inputs = inputs
        self._chooser = chooser

    def build(self, operation: Operation) -> Step:
        """The step that runs ``operation``."""
        if isinstance(operation, ConvOp):
            return self._conv(operation)
        if isinstance(operation, PoolOp):
            return self._pool(operation)
        if isinstance(operation, MeanOp):
            return self._mean(operation)
        if isinstance(operation, LinearOp):
            return self._linear(operation)
        if isinstance(operation, ElementwiseOp):
            return self._elementwise(operation)
        return self._copy(operation)

    def _table(self, offsets: Sequence[int] | npt.NDArray[np.int64]) -> int:
        return self.constants.add(np.asarray(offsets, dtype=np.int32))

    def _planes(self, image: Image) -> list[int]:
        return [self.layout.offset(ref) for ref in image.planes]

    def _tap(self, tap: Tap, pitch: int) -> int:
        return self.layout.offset(tap.plane) + (tap.row * pitch + tap.column) * self.element.bytes

    def _positions(self, image: Image, inside: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """An array over pixels (..., height, width) as rows over a plane's positions; the border is zero."""
        pitch, vectors = self.layout.pitch(image), self.layout.vectors(image)
        spread = np.zeros((*inside.shape[:-1], pitch), dtype=inside.dtype)
        spread[..., : image.width] = inside
        flat = np.zeros((*inside.shape[:-2], vectors * self.layout.lanes), dtype=inside.dtype)
        flat[..., : image.height * pitch] = spread.reshape(*inside.shape[:-2], -1)
        return flat

    def _mask(self, image: Image) -> int:
        return self.constants.add(self._positions(image, np.full((image.height, image.width), -1, np.int32)))

    def _by_range(self, name: str, kernel: KernelSpec, fields: Fields, count: int, dense_macs: int = 0) -> Step:
        """A step whose items ``first..last`` are shared out evenly."""
        bounds = [count * part // self.threads for part in range(self.threads + 1)]
        parts = [
            tuple(kernel.signature.pack(fields | {"first": a, "last": b})) if b > a else None
            for a, b in pairwise(bounds)
        ]
        return Step(name, kernel, tuple(parts), dense_macs, dense_macs, dense_macs)

    def _conv(self, op: ConvOp) -> Step:
        patterns = [matrix != 0 if self.sparse else np.ones(matrix.shape, np.bool_) for matrix in op.matrices]
        vectors = self.layout.vectors(op.out)
        displaced = len({(tap.row, tap.column) for tap in op.taps[0]}) > 1
        choice = self._choose(patterns, vectors, displaced)
        kernel = choice.kernel(op.residual is not None, self.element)
        pixels = op.out.height * op.out.width
        tiles = -(-vectors // choice.tile)
        bands = self._bands(patterns, choice, tiles)
        if len(bands) == 1:
            cuts = [tiles * thread // self.threads for thread in range(self.threads + 1)]
            shares = [(bands[0], first, last) for first, last in pairwise(cuts)]
        else:
            shares = [(band, 0, tiles) for band in bands]
        packed = {band: self._conv_fields(op, patterns, choice, vectors, band) for band in bands if band[0] < band[1]}
        parts = [
            tuple(kernel.signature.pack(packed[band][0] | {"first_tile": first, "last_tile": last}))
            if band in packed and first < last
            else None
            for band, first, last in shares
        ]
        executed = sum(macs for _, macs in packed.values())
        useful = sum(int((matrix != 0).sum()) for matrix in op.matrices) * pixels
        dense = sum(matrix.size for matrix in op.matrices) * pixels
        return Step(op.name, kernel, tuple(parts), executed * pixels, useful, dense, choice.reason)

    def _choose(self, patterns: list[npt.NDArray[np.bool_]], vectors: int, displaced: bool) -> Choice:
        """The kernel of a layer; a grouped convolution is a block-diagonal matrix, always run as groups."""
        if len(patterns) == 1:
            return self._chooser(
                Layer(patterns[0], vectors, displaced), self.target, sparse=self.sparse, heights=HEIGHTS
            )
        rows = patterns[0].shape[0]
        heights = tuple(height for height in HEIGHTS if rows % height == 0)
        stacked = Layer(np.concatenate(patterns), vectors, displaced)
        choice = self._chooser(stacked, self.target, sparse=True, heights=heights)
        if choice.form != "dense":
            return choice
        return replace(choice, form="strip" if choice.rows > 1 else "ring")

    def _bands(self, patterns: list[npt.NDArray[np.bool_]], choice: Choice, tiles: int) -> list[tuple[int, int]]:
        """Rows for every thread, with equal weights, where tiles alone would leave threads idle; else one band."""
        height = sum(len(pattern) for pattern in patterns)
        strips = -(-height // choice.rows)
        balanced_tiles = -(-tiles // self.threads) <= 1.15 * tiles / self.threads
        if self.threads == 1 or len(patterns) > 1 or balanced_tiles or strips < self.threads:
            return [(0, height)]
        (pattern,) = patterns
        work = np.ones(height) if choice.form == "dense" else pattern.sum(axis=1) + 1.0
        done = np.cumsum(np.add.reduceat(work, np.arange(0, height, choice.rows)))
        cuts = [0]
        for thread in range(1, self.threads):
            cut = int(np.searchsorted(done, done[-1] * thread / self.threads)) + 1
            cuts.append(max(cuts[-1], min(cut * choice.rows, height)))
        return list(zip(cuts, [*cuts[1:], height], strict=True))

    def _conv_fields(
        self,
        op: ConvOp,
        patterns: list[npt.NDArray[np.bool_]],
        choice: Choice,
        vectors: int,
        band: tuple[int, int],
    ) -> tuple[Fields, int]:
        """The arguments for the rows ``band``, and the multiply-accumulates a position."""
        pitch = self.layout.pitch(op.out)
        packs: list[PackedRows] = []
        offsets: list[npt.NDArray[np.int64]] = []
        for matrix, pattern, taps in zip(op.matrices, patterns, op.taps, strict=True):
            packed = pack(matrix, pattern, choice.form, choice.rows, band if len(op.matrices) == 1 else None)
            addresses = np.array([self._tap(tap, pitch) for tap in taps], dtype=np.int64)
            packs.append(packed)
            offsets.append(addresses[packed.columns])
        ends = [packed.ends + sum(before.groups for before in packs[:i]) for i, packed in enumerate(packs)]
        height = band[1] - band[0]
        row_count = -(-height // choice.rows) * choice.rows
        bias = np.zeros(row_count + choice.rows, dtype=np.float32)
        bias[:height] = op.bias[slice(*band)]
        sink = [self.layout.offset(PlaneRef(SINK, 0))] * (row_count - height)
        outputs = self._planes(op.out)[slice(*band)] + sink
        residuals = self._planes(op.residual)[slice(*band)] + sink if op.residual is not None else [0]
        weights = np.concatenate([packed.weights for packed in packs])
        fields = {
            "ends": self.constants.add(np.concatenate(ends)),
            "offsets": self._table(np.concatenate(offsets)),
            "weights": self.constants.add(weights),
            "bias": self.constants.add(bias),
            "outputs": self._table(outputs),
            "residuals": self._table(residuals),
            "mask": self._mask(op.out),
            "arena": reference(ARENA, 0),
            "row_count": row_count,
            "columns": op.matrices[0].shape[1],
            "last_start": vectors - choice.tile,
            "low": number(op.clamp.low),
            "high": number(op.clamp.high),
        }
        return fields, int(weights.size)

    def _pool(self, op: PoolOp) -> Step:
        pitch = self.layout.pitch(op.out)
        scale = (1.0 / np.maximum(op.counts, 1)).astype(np.float32)
        fields = {
            "taps": self._table([self._tap(tap, pitch) for channel in op.taps for tap in channel]),
            "outputs": self._table(self._planes(op.out)),
            "inside": self.constants.add(self._positions(op.out, -op.inside.astype(np.int32))),
            "scale": self.constants.add(self._positions(op.out, scale)),
            "mask": self._mask(op.out),
            "arena": reference(ARENA, 0),
            "tap_count": len(op.taps[0]),
            "vectors": self.layout.vectors(op.out),
        }
        return self._by_range(op.name, PoolKernel(op.form, self.element), fields, len(op.out.planes))

    def _mean(self, op: MeanOp) -> Step:
        fields = {
            "inputs": self._table(self._planes(op.image)),
            "arena": reference(ARENA, 0),
            "output": reference(ARENA, self.layout.offset(PlaneRef(op.out.buffer, 0))),
            "vectors": self.layout.vectors(op.image),
            "scale": number(1.0 / (op.image.height * op.image.width)),
        }
        return self._by_range(op.name, MeanKernel(self.element), fields, len(op.image.planes))

    def _linear(self, op: LinearOp) -> Step:
        rows, columns = op.weight.shape
        vectors = -(-rows // self.layout.lanes)
        tile = next(tile for tile in (4, 2, 1) if vectors >= tile)
        weights, bias = pack_linear(op.weight, op.bias, tile, self.layout.lanes)
        fields = {
            "input": reference(ARENA, self.layout.offset(PlaneRef(op.x.buffer, 0))),
            "weights": self.constants.add(weights),
            "bias": self.constants.add(bias),
            "output": reference(ARENA, self.layout.offset(PlaneRef(op.out.buffer, 0))),
            "columns": -(-columns // UNROLL) * UNROLL,
            "low": number(op.clamp.low),
            "high": number(op.clamp.high),
        }
        return self._by_range(op.name, LinearKernel(tile, self.element), fields, len(weights), rows * columns)

    def _elementwise(self, op: ElementwiseOp) -> Step:
        tables, lanes = [], self.layout.lanes
        for value in (op.a, op.b or op.a, op.out):
            refs = value.planes if isinstance(value, Image) else (PlaneRef(value.buffer, 0),)
            tables.append(self._table([self.layout.offset(ref) for ref in refs]))
        form, scale, shift = "add", np.zeros(1, np.float32), np.zeros(1, np.float32)
        if op.scale is not None and op.shift is not None:
            form, scale, shift = "affine", op.scale, op.shift
        if isinstance(op.out, Image):
            vectors, mask, planes = self.layout.vectors(op.out), self._mask(op.out), len(op.out.planes)
        else:
            vectors, planes = -(-op.out.features // lanes), 1
            inside = np.zeros(vectors * lanes, np.int32)
            inside[: op.out.features] = -1
            mask = self.constants.add(inside)
            if form == "affine":
                form = "scale"
                scale, shift = (np.pad(v, (0, vectors * lanes - len(v))) for v in (scale, shift))
        fields = {
            "first_inputs": tables[0],
            "second_inputs": tables[1],
            "outputs": tables[2],
            "scale": self.constants.add(scale),
            "shift": self.constants.add(shift),
            "mask": mask,
            "arena": reference(ARENA, 0),
            "vectors": vectors,
            "low": number(op.clamp.low),
            "high": number(op.clamp.high),
        }
        return self._by_range(op.name, ElementwiseKernel(form, self.element), fields, planes)

    def _copy(self, op: CopyOp) -> Step:
        region, sources, row = self._rectangles(op.source, op, op.starts)
        target_region, targets, target_row = self._rectangles(op.target, op, (op.target_start,))
        fields = {
            "source": reference(region, 0),
            "target": reference(target_region, 0),
            "sources": self._table(sources),
            "targets": self._table(targets),
            "source_row": row * op.step[0],
            "target_row": target_row,
            "rows": op.rows,
            "columns": op.columns,
        }
        return self._by_range(op.name, CopyKernel(op.step[1], self.element), fields, len(sources))

    def _rectangles(
        self, value: Image | Vector | External, op: CopyOp, corners: Sequence[tuple[int, int]]
    ) -> tuple[int, list[int], int]:
        """Where rectangles begin: (region, bytes to ``corners`` in every plane, bytes from a row to the next)."""
        size = self.element.bytes
        if isinstance(value, Image):
            region, width = ARENA, self.layout.pitch(value)
            planes = self._planes(value)
        elif isinstance(value, External):
            region = FIRST_EXTERNAL + value.port + (self._inputs if value.output else 0)
            height, width = value.shape[1:] if len(value.shape) == 3 else (1, value.shape[0])
            planes = [i * height * width * size for i in range(op.planes)]
        else:
            # A vector is the rectangles of a flattened image, one after another.
            region, width = ARENA, op.columns
            first = self.layout.offset(PlaneRef(value.buffer, 0))
            planes = [first + i * op.rows * op.columns * size for i in range(op.planes)]
        return region, [plane + (y * width + x) * size for y, x in corners for plane in planes], width * size
