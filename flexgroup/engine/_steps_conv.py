"""Steps of convolutions: which kernel, how the work is cut, and everything it reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from flexgroup.engine._choose import DENSE_FORMS, FEW_ROWS, asks_early, best_tile, cut
from flexgroup.engine._conv_layers import ConvLayer, conv_layer, layer_of, reach, slabs_of
from flexgroup.engine._operations import ConvOp, Tap
from flexgroup.engine._plan import Step, number
from flexgroup.engine._shares import Share, share_out
from flexgroup.kernels import LINE, Target
from flexgroup.kernels.channels import ChannelsKernel
from flexgroup.kernels.conv import EARLY, ConvKernel
from flexgroup.kernels.packing import PackedRows, longest_first, pack

if TYPE_CHECKING:
    from flexgroup.engine._steps import Fields, Place, StepBuilder


LONGEST_RUN = 4  # columns: a loop's code is that many times as long
FEW_TILES = 4  # with no more, every weight is read about once


def _conv(builder: StepBuilder, op: ConvOp) -> list[Step]:
    conv = conv_layer(builder, op, op.out.height)
    kernel, tiles, _ = _cut(builder, conv, (0, op.out.height))
    kernel, shares = share_out(builder, conv, kernel, tiles)
    steps = [_step(builder, slab, kernel, shares) for slab in slabs_of(builder, conv)]
    steps = [replace(step, reason=conv.reason, shares=conv.shares, barrier=False) for step in steps]
    return [*steps[:-1], replace(steps[-1], bytes=builder.bytes_of(op), barrier=True)]


def _step(
    builder: StepBuilder, conv: ConvLayer, whole: ConvKernel | ChannelsKernel, shares: Sequence[Share | None]
) -> Step:
    """The step that computes every thread's share of a slab, cut as the ``whole`` convolution's kernel cuts it."""
    op = conv.op
    kernel, _, limits = _cut(builder, conv, (0, op.out.height))
    if isinstance(kernel, ConvKernel) and isinstance(whole, ConvKernel):
        kernel = replace(kernel, tile=whole.tile, tail=whole.tail, stacked=whole.stacked)
    pixels = op.out.height * op.out.width
    bands = dict.fromkeys(share.channels for share in shares if share is not None)
    packed = {band: packed_fields(builder, conv, band) for band in bands}
    place = builder.place()
    shared = place_fields(op, place, 0) | limits
    parts: list[tuple[int, ...] | None] = []
    for thread, share in enumerate(shares):
        if share is None:
            parts.append(None)
            continue
        fields = packed[share.channels][0] | shared | share.fields
        fields |= {name: fields[name] + share.start for name in ("source", "target", "residual", "mask") if share.start}
        fields |= panel_fields(builder, conv, fields, thread)
        parts.append(tuple(kernel.signature.pack(fields)))
    executed = sum(macs for _, macs in packed.values())
    return Step(
        op.name,
        kernel,
        tuple(parts),
        executed * pixels,
        conv.useful_macs * pixels,
        conv.dense_macs * pixels,
    )


def conv_calls(
    builder: StepBuilder, conv: ConvLayer, rows: tuple[int, int], place: Place
) -> list[tuple[ConvKernel | ChannelsKernel, tuple[int, ...], int]]:
    """The kernels and arguments that compute ``rows`` of the output, slab by slab, and their multiply-accumulates."""
    return [_call(builder, slab, rows, place) for slab in slabs_of(builder, conv)]


def _call(
    builder: StepBuilder, conv: ConvLayer, rows: tuple[int, int], place: Place
) -> tuple[ConvKernel | ChannelsKernel, tuple[int, ...], int]:
    op = conv.op
    kernel, tiles, limits = _cut(builder, conv, rows)
    whole = (0, sum(map(len, conv.patterns)))
    fields, macs = builder.once(lambda: packed_fields(builder, conv, whole), "packed", id(op))
    fields = fields | place_fields(op, place, rows[0]) | limits | {"first_tile": 0, "last_tile": tiles}
    fields |= panel_fields(builder, conv, fields, place.thread)
    return kernel, tuple(kernel.signature.pack(fields)), macs * (rows[1] - rows[0]) * op.out.width


def _cut(
    builder: StepBuilder, conv: ConvLayer, rows: tuple[int, int]
) -> tuple[ConvKernel | ChannelsKernel, int, Fields]:
    """The kernel for ``rows`` of the output, into how many tiles it cuts them, and the fields that say so."""
    op, choice, layout, element = conv.op, conv.choice, builder.layout, builder.element
    adds, count = op.residual is not None, rows[1] - rows[0]
    if choice.form == "channels":
        tiles, gap = op.out.width // choice.tile, layout.pitch(op.out) - op.out.width
        channels = ChannelsKernel(choice.rows // layout.lanes, choice.tile, gap, adds, element, op.curve)
        return channels, count * tiles, {"row_tiles": tiles, "image_row": layout.pitch(op.out) * element.bytes}
    layer = replace(conv.layer, rows=count)
    held = layer.rows_of_vector(choice.form, choice.rows)
    pitch = layout.pitch(op.out) * element.bytes if held else 0
    vectors, covered = (count // held, count * op.out.width) if held else builder.cover(op.out, rows)
    stacked = 0 if choice.panel else layer.stacked(choice.form, choice.rows)
    if stacked and covered < (vectors - 1) * layout.lanes + layout.lanes // stacked:
        stacked = 0
    tile = choice.tile if count == conv.layer.rows else best_tile(choice.rows, vectors, builder.target, stacked)
    if choice.panel:
        tile = min(tile, choice.tile)  # or segments would overlap
    tile = min(tile, covered // layout.lanes)
    line = cut(tile, vectors, builder.target, choice.rows, stacked)
    exact = line.last_start * (held * pitch or layout.vector_bytes)
    last_start = exact if held or line.stacked else (covered - line.last * layout.lanes) * element.bytes
    overlaps = last_start != exact
    in_place = overlaps and op.residual is not None and layout.is_in_place(op.residual, op.out)
    span, ahead = conv.layer.span if choice.panel else 0, _streams(builder, conv)
    form = (choice.form, choice.rows, line.size, adds, element, op.curve, in_place, line.tail)
    run, step = _runs(builder, conv)
    border = layout.needs_border(op.out)
    kernel = ConvKernel(
        *form,
        panel=choice.panel,
        span=span,
        ahead=ahead,
        run=run,
        step=step,
        held=held,
        pitch=pitch,
        stacked=line.stacked,
        early=not choice.panel and asks_early(layer, choice.form, choice.rows, tile, builder.target),
        border=border,
        low=not builder.target.triple or op.clamp.low > -np.inf,
        high=not builder.target.triple or op.clamp.high < np.inf,
    )
    limits = {"whole_tiles": line.whole, "last_start": last_start}
    return kernel, line.count, {"mask": builder.mask(op.out, count) if border else 0} | limits


def longest_run(rows: int, curve: str, target: Target) -> int:
    """How many columns kernels of so many rows may take at a time: with more LLVM needs the stack in their loops."""
    if rows == 4 or (rows == 2 and target.vector_bytes < LINE):
        return min(LONGEST_RUN, 2) if curve else LONGEST_RUN
    return 1


def runs(offsets: Sequence[npt.NDArray[np.int64]], vector: int, tile: int, longest: int) -> tuple[int, int]:
    """How many columns can be taken at a time, and how many bytes their inputs then lie apart; (1, 0) where none can.

    ``offsets`` are those of the columns of every strip. Of ``tile`` vectors of ``vector`` bytes, columns may have no
    vector in common: LLVM would load it once, and keep it in a register that is not there.
    """
    for run in range(longest, 1, -1):
        if all(len(strip) % run == 0 for strip in offsets):
            steps = np.unique(np.diff(np.concatenate(offsets).reshape(-1, run), axis=1))
            if len(steps) == 1 and steps[0] > 0 and (steps[0] % vector or steps[0] >= tile * vector):
                return run, int(steps[0])
    return 1, 0


def _runs(builder: StepBuilder, conv: ConvLayer) -> tuple[int, int]:
    """The `runs` of a convolution; none where zeros are skipped, or on GPUs.

    With wide vectors an offset is one load of many. There, inputs may only be as far apart as the segments of a panel
    or the taps of a row: planes would need a kernel for each size of images.
    """
    op, choice, layout = conv.op, conv.choice, builder.layout
    if choice.form != "dense" or not builder.target.triple:
        return 1, 0

    def find() -> tuple[int, int]:
        (taps,) = op.taps
        if choice.panel:
            _, offsets = _segments(builder, taps, np.arange(len(taps)), choice.panel)
        else:
            offsets = np.array([builder.tap(tap, layout.pitch(op.out)) for tap in taps], np.int64)
        longest = longest_run(choice.rows, op.curve, builder.target)
        run, step = runs([offsets], layout.vector_bytes, choice.tile, longest)
        is_known = bool(choice.panel) or step < layout.vector_bytes or layout.vector_bytes < LINE
        return (run, step) if is_known else (1, 0)

    return builder.once(find, "runs", id(op), choice.rows, choice.tile, choice.panel)


def _streams(builder: StepBuilder, conv: ConvLayer) -> bool:
    """Whether most weights come from beyond the second-level cache: there are many, or they are not used again."""
    vectors = builder.layout.vectors(conv.op.out)
    often = -(-vectors // conv.choice.tile) > FEW_TILES
    return not often or conv.choice.groups * conv.choice.rows * builder.element.bytes > builder.target.cache_bytes / 2


def panel_fields(builder: StepBuilder, conv: ConvLayer, fields: Fields, thread: int) -> Fields:
    """Where a thread copies its tiles' inputs to, if the kernel copies them."""
    if not conv.choice.panel:
        return {}
    return {"panel": builder.panel(fields["segment_count"] * conv.choice.panel * builder.layout.vector_bytes, thread)}


def place_fields(op: ConvOp, place: Place, row: int) -> Fields:
    """Where row ``row`` of everything that the kernel reads and writes lies."""
    return {
        "source": place.reference(op.reads[0] if op.reads else op.out, row),
        "target": place.reference(op.out, row),
        "residual": place.reference(op.residual, row) if op.residual is not None else place.reference(op.out, row),
    }


def packed_fields(builder: StepBuilder, conv: ConvLayer, band: tuple[int, int]) -> tuple[Fields, int]:
    """The arguments for the output channels ``band`` that do not depend on rows, and the MACs a position."""
    op, choice = conv.op, conv.choice
    form, pitch = "dense" if choice.form in DENSE_FORMS else choice.form, builder.layout.pitch(op.out)
    segments: list[Tap] = []
    packs: list[PackedRows] = []
    offsets: list[npt.NDArray[np.int64]] = []
    height = band[1] - band[0]
    row_count = -(-height // choice.rows) * choice.rows
    order = np.arange(row_count)
    for matrix, pattern, taps in zip(op.matrices, conv.patterns, op.taps, strict=True):
        packed = _packed(builder, conv, band) if len(op.matrices) == 1 else pack(matrix, pattern, form, choice.rows)
        if _has_any_order(builder, conv):
            packed, order = longest_first(packed, choice.rows)
        addresses = np.array([builder.tap(tap, pitch) for tap in taps], dtype=np.int64)
        packs.append(packed)
        if choice.panel:
            used = packed.columns if form != "dense" else np.arange(len(taps))
            segments, addresses = _segments(builder, taps, used, choice.panel)
        offsets.append(addresses[packed.columns])
    ends = [packed.ends + sum(before.groups for before in packs[:i]) for i, packed in enumerate(packs)]
    bias = np.zeros(row_count + choice.rows, dtype=np.float32)
    bias[:height] = op.bias[slice(*band)]
    bias[:row_count] = bias[order]
    sink = row_count - height
    outputs = np.array(builder.planes(op.out)[slice(*band)] + [builder.layout.sink(op.out)] * sink)[order]
    residuals = np.zeros(1, np.int64)
    if op.residual is not None:
        # What is added to rows beyond the last one does not matter, if it can be read.
        own = builder.planes(op.residual)[slice(*band)]
        residuals = np.array(own + [own[-1]] * sink)[order]
    weights = np.concatenate([packed.weights for packed in packs])
    fields = {
        "offsets": builder.table(np.concatenate([*offsets, np.zeros(EARLY, np.int64)])),
        "weights": builder.numbers(weights),
        "bias": builder.numbers(bias),
        "outputs": builder.table(outputs),
        "residuals": builder.table(residuals),
        "row_count": row_count,
        "columns": op.matrices[0].shape[1],
        "low": number(op.clamp.low),
        "high": number(op.clamp.high),
    }
    if choice.form != "channels":
        fields["ends"] = builder.constants.add(np.concatenate(ends))
        fields["sweep"] = choice.sweep or row_count
    if choice.panel:
        fields["segments"] = builder.table([builder.tap(tap, pitch) for tap in segments])
        fields["segment_count"] = len(segments)
    return fields, int(weights.size)


def _has_any_order(builder: StepBuilder, conv: ConvLayer) -> bool:
    """Whether strips come longest first: where what they write is near, and their loops are short.

    Where a loop ends otherwise than foreseen costs as much as a few groups of one or two rows, and hides behind the
    multiply-adds of higher ones.
    """
    choice, layer = conv.choice, conv.layer
    is_strip = choice.form == "strip" or (choice.form == "ring" and choice.rows == 1)
    usual = is_strip and choice.rows <= FEW_ROWS and layer.blocks == 1 and not choice.sweep
    cache = builder.target.cache_bytes
    return usual and bool(builder.target.triple) and not (cache and layer.leaves(cache))


def _packed(builder: StepBuilder, conv: ConvLayer, band: tuple[int, int]) -> PackedRows:
    """The groups of the output channels ``band`` of a matrix, of the whole one if it is a slice."""
    op, choice = conv.op, conv.choice
    form = "dense" if choice.form in DENSE_FORMS else choice.form
    whole = op if op.whole is None else op.whole
    pattern = conv.patterns[0] if op.whole is None else layer_of(builder, op.whole, conv.layer.rows).pattern
    return pack(whole.matrices[0], pattern, form, choice.rows, (op.first + band[0], op.first + band[1]), choice.sweep)


def _segments(
    builder: StepBuilder, taps: Sequence[Tap], used: npt.NDArray[np.int64], vectors: int
) -> tuple[list[Tap], npt.NDArray[np.int64]]:
    """The first taps of a panel's segments, in the order of their planes, and every tap's offset in the panel.

    Only segments of ``used`` taps are there; the offsets of other taps mean nothing.
    """
    first, _ = reach(taps)
    rows = dict.fromkeys((taps[column].plane, taps[column].row) for column in np.unique(used))
    numbers = {key: number for number, key in enumerate(rows)}
    bytes_of_segment = vectors * builder.layout.vector_bytes
    offsets = [
        numbers.get((tap.plane, tap.row), 0) * bytes_of_segment + (tap.column - first) * builder.element.bytes
        for tap in taps
    ]
    return [Tap(plane, row, first) for plane, row in rows], np.array(offsets, dtype=np.int64)


BUILDERS: Mapping[type, Callable[..., list[Step]]] = {ConvOp: _conv}
