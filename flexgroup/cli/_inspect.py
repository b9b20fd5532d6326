"""``flexgroup inspect``: what is in a weights file, and which groups its zeros leave."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from flexgroup._errors import FlexgroupError
from flexgroup.cli._options import JsonOption
from flexgroup.cli._output import Progress, print_json, stdout_console, working

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

HEIGHTS = (2, 4, 8)


@dataclass(frozen=True)
class Windows:
    """The fewest windows of ``rows x 1`` that cover a layer's non-zeros; ``fill`` of them is non-zero.

    1 says that the layer is made of such groups; 1 / rows, that no two of its weights share one.
    """

    rows: int
    count: int
    fill: float


@dataclass(frozen=True)
class LayerSummary:
    """One kernel or matrix: its tensor's shape, its weight matrix's (rows, columns), and its zeros.

    ``windows`` is empty for a layer without zeros.
    """

    name: str
    shape: tuple[int, ...]
    rows: int
    columns: int
    nonzeros: int
    sparsity: float
    windows: tuple[Windows, ...]


@dataclass(frozen=True)
class Summary:
    """A weights file: its header's metadata, its layers, and their total."""

    path: str
    metadata: dict[str, str]
    layers: tuple[LayerSummary, ...]
    weights: int
    nonzeros: int
    sparsity: float
    windows: tuple[Windows, ...]


def inspect(
    path: Annotated[
        Path, typer.Argument(help="Weights: .safetensors, a PyTorch checkpoint or an ONNX file.", metavar="FILE")
    ],
    as_json: JsonOption = False,
) -> None:
    """Show each layer's zeros, and the groups that are found in them.

    \b
    Example:
      flexgroup inspect RUN/model.safetensors
    """
    with working(Progress(shown=True)):
        result = run_inspection(path)
    if as_json:
        print_json(asdict(result))
    else:
        _print(result)


def run_inspection(path: Path) -> Summary:
    """Summarise every kernel and matrix of a weights file, in the file's order of names.

    Raises `FlexgroupError` where it cannot be read, has NaN or Inf, or has no kernel or matrix.
    """
    from flexgroup import zoo

    weights = _read(path)
    zoo.check_finite(weights, f"weights {path}")
    layers = tuple(
        _summarise(name.removesuffix(".weight"), tuple(tensor.shape), tensor.float().flatten(1).numpy())
        for name, tensor in weights.items()
        if tensor.ndim > 1 and tensor.is_floating_point() and tensor.numel()
    )
    if not layers:
        raise FlexgroupError(f"weights {path}: no tensor in it is a kernel or a matrix; give a network's weights")
    if path.suffix.lower() != ".onnx":  # whose order is that of execution
        layers = tuple(sorted(layers, key=lambda layer: _natural(layer.name)))
    total, nonzeros = (sum(values) for values in zip(*((r.rows * r.columns, r.nonzeros) for r in layers), strict=True))
    pruned = [layer for layer in layers if layer.windows]
    in_windows = sum(layer.nonzeros for layer in pruned)
    windows = tuple(
        _windows(height, sum(layer.windows[i].count for layer in pruned), in_windows)
        for i, height in enumerate(HEIGHTS)
        if pruned
    )
    return Summary(str(path), zoo.read_metadata(path), layers, total, nonzeros, 1.0 - nonzeros / total, windows)


def _read(path: Path) -> dict[str, Tensor]:
    from flexgroup import zoo

    if path.suffix.lower() != ".onnx":
        return zoo.read_weights(path)
    import torch

    from flexgroup.graph import onnx_weights

    return {name: torch.from_numpy(weight) for name, weight in onnx_weights(path).items()}


def _summarise(name: str, shape: tuple[int, ...], matrix: npt.NDArray[np.float32]) -> LayerSummary:
    import numpy as np

    from flexgroup.groups import cover

    rows, columns = matrix.shape
    nonzeros = int(np.count_nonzero(matrix))
    found = HEIGHTS if nonzeros < matrix.size else ()
    windows = tuple(_windows(height, int(cover(matrix, height).sum()), nonzeros) for height in found)
    return LayerSummary(name, shape, rows, columns, nonzeros, 1.0 - nonzeros / matrix.size, windows)


def _windows(rows: int, count: int, nonzeros: int) -> Windows:
    return Windows(rows, count, nonzeros / (count * rows) if count else 0.0)


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """Sort key: numbers between dots by value, so that block 10 follows block 9."""
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in name.split(".")]


def _print(result: Summary) -> None:
    table = Table(
        title=escape(result.path), caption="windows that cover the non-zeros (share of them that is non-zero)"
    )
    for heading in ("layer", "shape", "weights", "zeros", *(f"{height}x1 windows" for height in HEIGHTS)):
        table.add_column(heading, justify="left" if heading == "layer" else "right", no_wrap=True)
    for layer in result.layers:
        shape = "x".join(map(str, layer.shape))
        weights = layer.rows * layer.columns
        table.add_row(
            escape(layer.name), shape, f"{weights:,}", f"{100 * layer.sparsity:.1f} %", *_cells(layer.windows)
        )
    table.add_section()
    zeros = f"{100 * result.sparsity:.1f} %"
    table.add_row("all", "", f"{result.weights:,}", zeros, *_cells(result.windows))
    console = stdout_console()
    console.print(table)
    if result.metadata:
        about = ", ".join(f"{key}: {value}" for key, value in sorted(result.metadata.items()))
        console.print(about, highlight=False, markup=False)


def _cells(windows: tuple[Windows, ...]) -> list[str]:
    return [f"{w.count:,} ({100 * w.fill:.0f} %)" for w in windows] or ["dense"] * len(HEIGHTS)
