"""Draws the pictures of the README and the docs from committed results and a network's weights.

python docs/pictures.py --weights resnet20.safetensors
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from flexgroup import Groups, select
from flexgroup.groups import cover
from flexgroup.pruning import weight_matrices
from flexgroup.zoo import build, load_weights

HERE = Path(__file__).resolve().parent
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#8c8c8c"
LAYER, ROWS, COLUMNS = "layer3.0.conv2", 32, 24


def crop(axes: Axes, weights: Path, groups: Groups, colour: str, title: str) -> None:
    """The groups that stay in a corner of one layer; darker where they are off the grid."""
    model = build("resnet20")
    load_weights(model, weights)
    scores = {name: np.abs(matrix.detach().numpy()) for name, matrix in weight_matrices(model).items()}
    mask = select(scores, groups, keep=0.1).masks[LAYER]
    first = int(np.argmax(np.convolve(mask[:ROWS].sum(axis=0), np.ones(COLUMNS), "valid")))
    for row, column in zip(*np.nonzero(cover(mask, groups.rows)[:ROWS, first : first + COLUMNS]), strict=True):
        dark = row % groups.rows != 0
        face = ORANGE if dark else colour
        axes.add_patch(Rectangle((column + 0.08, row + 0.08), 0.84, groups.rows - 0.16, facecolor=face))
    for line in range(0, ROWS + 1, groups.rows):
        axes.axhline(line, color=GREY, linewidth=0.5, dashes=(3, 3))
    axes.set(xlim=(0, COLUMNS), ylim=(ROWS, 0), xticks=[], yticks=range(0, ROWS + 1, 8), title=title)
    axes.set_ylabel("output channel")
    axes.set_xlabel("input channel and tap")


def bars(axes: Axes, results: Path) -> None:
    """Latency of every engine, from the benchmark's results."""
    document = json.loads(results.read_text())
    rows = {(r["engine"], r["pattern"], r["budget"], r["sparsity"]): r["ms"] for r in document["rows"]}
    peer = rows["onnxruntime", "dense", "", 0.0]
    shown = [
        ("ONNX Runtime, dense", peer, GREY),
        ("flexgroup, dense", rows["flexgroup", "dense", "", 0.0], GREY),
    ]
    for sparsity in (0.8, 0.9, 0.95):
        for pattern, colour in (("4x1 aligned", BLUE), ("4x1 unaligned rows", ORANGE)):
            shown.append((f"{pattern}, {sparsity:.0%}", rows["flexgroup", pattern, "layer", sparsity], colour))
    for place, (_, ms, colour) in enumerate(shown):
        axes.barh(place, ms, color=colour)
        axes.text(ms + peer * 0.01, place, f"{ms:.3f} ms ({peer / ms:.1f}x)", va="center", fontsize=9)
    axes.set_yticks(range(len(shown)), [name for name, _, _ in shown])
    axes.invert_yaxis()
    axes.set(xlim=(0, peer * 1.3), title="ResNet-20, one image, one thread", xlabel="milliseconds")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    options = parser.parse_args()
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=[1, 1, 1.7])
    crop(left, options.weights, Groups("4x1"), BLUE, "aligned: groups on the grid")
    crop(middle, options.weights, Groups("4x1", unaligned="rows"), BLUE, "unaligned: groups start anywhere")
    bars(right, HERE.parent / "results" / "resnet20_1thread.json")
    figure.savefig(HERE / "images" / "resnet20.png", dpi=110)


if __name__ == "__main__":
    main()
