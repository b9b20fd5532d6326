"""How a step of a plan becomes one OpenCL call: which kernel, how it is built, its arguments and work-items."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flexgroup._errors import FlexgroupError
from flexgroup.engine import Step
from flexgroup.engine._plan import ARENA
from flexgroup.graph.ir import slope_of
from flexgroup.kernels import (
    BASE_SHIFT,
    ConvKernel,
    CopyKernel,
    Element,
    ElementwiseKernel,
    GatherKernel,
    InterleaveKernel,
    LinearKernel,
    MeanKernel,
    PoolKernel,
    ResizeKernel,
    Target,
    TransposeKernel,
)

# Sixteen bytes are the widest load of a GPU. The number of registers bounds a work-item's sums, rows x tile vectors.
OPENCL = Target(
    "opencl", triple="", cpu="", features="", vector_bytes=16, vector_registers=32, has_fma=True, cache_bytes=0
)

SHORTEST_BAND = 2  # strips of a ring's band, which computes one strip more than it keeps

_TYPES = {"f32": ("float", "int")}  # an element's names in OpenCL C: the number, and an integer of its size


@dataclass(frozen=True)
class Launch:
    """One kernel call for a batch: ``items`` work-items an image; the arguments after constants and ``regions``."""

    family: str
    options: tuple[str, ...]
    regions: tuple[int, ...]
    arguments: tuple[int, ...]
    items: int


def check_supported(steps: Iterable[Step]) -> None:
    """Raise one `FlexgroupError` that names every layer of a plan which there is no OpenCL code for."""
    missing = [step for step in steps if type(step.kernel) not in _CUTS]
    if missing:
        layers = dict.fromkeys(f"{step.name!r} ({step.kernel.name.partition('_')[0]})" for step in missing)
        raise FlexgroupError(
            f"there is no OpenCL code yet for {', '.join(layers)}; compile the network for the CPU, or the part of it "
            f"that is convolutions for the GPU"
        )


def launch(step: Step, parallelism: int) -> Launch:
    """The OpenCL call that runs ``step`` of a plan for one thread on a device for ``parallelism`` work-items.

    A kernel's arguments are the step's own fields, references reduced to the bytes into their region, followed by what
    only OpenCL needs: how the work is cut.
    """
    kernel: Any = step.kernel
    part = step.parts[0]
    assert part is not None, "a plan for one thread has work in every step"
    fields = dict(zip(kernel.signature.fields, part, strict=True))
    number = {name: value & ((1 << BASE_SHIFT) - 1) for name, value in fields.items()}
    cut = _CUTS[type(kernel)](kernel, number, parallelism)
    # Copies go between any two regions, everything else stays in the arena.
    ends = (
        ("source", "target")
        if isinstance(kernel, CopyKernel | GatherKernel | InterleaveKernel | TransposeKernel)
        else ()
    )
    regions = tuple(fields[name] >> BASE_SHIFT for name in ends) or (ARENA,)
    arguments = (*(number | cut.replaced).values(), *cut.extra, cut.items)
    options = (*_element(kernel.element), *_curve(getattr(kernel, "curve", "")), *cut.options)
    return Launch(cut.family, options, regions, arguments, cut.items)


@dataclass(frozen=True)
class _Cut:
    """What a family adds to a launch: its build options, the work-items of an image, and arguments of its own."""

    family: str
    options: tuple[str, ...]
    items: int
    extra: tuple[int, ...] = ()
    replaced: dict[str, int] = field(default_factory=dict)  # fields that say how the plan had cut the work


def _element(element: Element) -> tuple[str, ...]:
    number, condition = _TYPES[element.name]
    return f"ELEMENT={number}", f"CONDITION={condition}", f"LANES={OPENCL.lanes(element)}"


def _curve(name: str) -> tuple[str, ...]:
    slope = slope_of(name)
    if slope is None:
        return (f"CURVE={name.upper()}",) if name else ()
    return "CURVE=LEAKY_RELU", f"SLOPE={int(np.float32(slope).view(np.uint32))}u"


def _conv(kernel: ConvKernel, fields: dict[str, int], parallelism: int) -> _Cut:
    """Tiles and bands: small enough to keep the device busy, and no smaller.

    A larger tile multiplies more with every weight it loads; a longer band of a ring repeats fewer groups. The plan's
    tile is the upper bound; any tile runs the same tables.
    """
    rows, row_count = kernel.rows, fields["row_count"]
    vectors = fields["last_start"] // OPENCL.vector_bytes + kernel.tile
    strips = row_count // rows
    tile = 1
    while 2 * tile <= kernel.tile and -(-vectors // (2 * tile)) * strips >= parallelism:
        tile *= 2
    tiles = -(-vectors // tile)
    strips_per_band = 1
    if kernel.form == "ring" and rows > 1:
        bands = max(1, min(parallelism // tiles, strips // SHORTEST_BAND))
        strips_per_band = -(-strips // bands)
    bands = -(-strips // strips_per_band)
    options = (f"FORM={kernel.form.upper()}", f"ROWS={rows}", f"TILE={tile}", f"RESIDUAL={int(kernel.residual)}")
    replaced = {"last_tile": tiles, "last_start": vectors - tile}
    return _Cut("conv", options, tiles * bands, (tiles, strips_per_band * rows), replaced)


def _copy(kernel: CopyKernel, fields: dict[str, int], parallelism: int) -> _Cut:
    chunks = -(-fields["columns"] // OPENCL.lanes(kernel.element))
    return _Cut("copy", (f"STEP={kernel.step}",), _span(fields) * fields["rows"] * chunks, (chunks,))


def _gather(kernel: GatherKernel, fields: dict[str, int], parallelism: int) -> _Cut:
    return _Cut("gather", (), _span(fields) * fields["columns"])


def _interleave(kernel: InterleaveKernel, fields: dict[str, int], parallelism: int) -> _Cut:
    items = _span(fields) * fields["rows"] * fields["columns"] * kernel.parts
    return _Cut("interleave", (f"PARTS={kernel.parts}",), items)


def _transpose(kernel: TransposeKernel, fields: dict[str, int], parallelism: int) -> _Cut:
    return _Cut("transpose", (), fields["rows"] * fields["columns"])


def _elementwise(kernel: ElementwiseKernel, fields: dict[str, int], parallelism: int) -> _Cut:
    return _Cut("elementwise", (f"FORM={kernel.form.upper()}",), _span(fields) * fields["vectors"])


def _pool(kernel: PoolKernel, fields: dict[str, int], parallelism: int) -> _Cut:
    return _Cut("pool", (f"FORM={kernel.form.upper()}",), _span(fields) * fields["vectors"])


def _mean(kernel: MeanKernel, fields: dict[str, int], parallelism: int) -> _Cut:
    return _Cut("mean", (), _span(fields))


def _linear(kernel: LinearKernel, fields: dict[str, int], parallelism: int) -> _Cut:
    return _Cut("linear", (f"TILE={kernel.tile}",), _span(fields) * kernel.tile)


def _resize(kernel: ResizeKernel, fields: dict[str, int], parallelism: int) -> _Cut:
    planes = _span(fields) // fields["bands"] * OPENCL.lanes(kernel.element)
    return _Cut("resize", (), planes * fields["rows"] * fields["output_blocks"])


def _span(fields: dict[str, int]) -> int:
    return fields["last"] - fields["first"]


_CUTS: dict[type, Callable[[Any, dict[str, int], int], _Cut]] = {
    ConvKernel: _conv,
    CopyKernel: _copy,
    ElementwiseKernel: _elementwise,
    GatherKernel: _gather,
    InterleaveKernel: _interleave,
    LinearKernel: _linear,
    MeanKernel: _mean,
    PoolKernel: _pool,
    ResizeKernel: _resize,
    TransposeKernel: _transpose,
}
