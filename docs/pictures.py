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
from flexgroup.groups.reference import best_windows, greedy
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


def hull(axes: Axes, line: np.ndarray, window: int, wanted: int) -> None:
    """The best score of k windows of one line, and the price at which ``wanted`` of them are the best number."""
    counts = np.arange(len(line) // window + 1)
    best = np.array([best_windows(line, window, k)[0] for k in counts])
    marginal = np.diff(best)
    price = (marginal[wanted - 1] + marginal[wanted]) / 2
    axes.plot(counts, best, color=BLUE, marker="o", markersize=5, linewidth=1.2, label="F(k), on its hull everywhere")
    taken = [greedy([line[:, None]], window, k)[0][:, 0] for k in counts]
    reached = {int(mask.sum()) // window: line[mask].sum() for mask in taken}
    axes.plot(
        list(reached),
        list(reached.values()),
        "x",
        color=GREY,
        markersize=5,
        label=f"greedy: no room after {max(reached)}",
    )
    reach = np.array([wanted - 5.5, wanted + 5.5])
    axes.plot(reach, best[wanted] + price * (reach - wanted), color=ORANGE, label=f"slope: price {price:.2f}")
    axes.plot(wanted, best[wanted], "o", color=ORANGE, markersize=9)
    axes.annotate(
        f"F({wanted}) - price x {wanted} is the largest", (wanted, best[wanted]), (12, -16), textcoords="offset points"
    )
    axes.set(
        xlabel="k, windows kept",
        ylabel="score",
        xticks=counts[::4],
        title=f"one line: {len(line)} weights, windows of {window}",
    )
    axes.legend(loc="lower right", frameon=False)


def staircase(axes: Axes, lines: np.ndarray, window: int, budget: int) -> None:
    """How many windows several lines keep at a price, one by one and together; ``lines`` is (positions, lines)."""
    marginals = []
    for line in lines.T:
        best = [best_windows(line, window, k)[0] for k in range(len(line) // window + 1)]
        marginals.append(np.diff(best))
        axes.step(np.sort(marginals[-1])[::-1], np.arange(len(best) - 1), where="pre", color=BLUE, alpha=0.45)
    together = np.sort(np.concatenate(marginals))[::-1]
    axes.step(together, np.arange(together.size), where="pre", color="black", label="all lines")
    price = (together[budget - 1] + together[budget]) / 2
    axes.plot([], [], color=BLUE, alpha=0.45, label=f"each of {lines.shape[1]} lines")
    axes.axhline(budget, color=GREY, linewidth=1, dashes=(4, 3))
    axes.text(axes.get_xlim()[1], budget, "budget ", ha="right", va="bottom")
    axes.axvline(price, color=ORANGE, label=f"one price for all: {price:.2f}")
    axes.set(xlabel="price", ylabel="windows kept", title="more lines: counts add up, one price settles all")
    axes.legend(loc="upper right", frameon=False)


def draw_selection(weights: Path) -> Figure:
    """Why a price finds the best groups: on lines of a real layer."""
    model = build("resnet20")
    load_weights(model, weights)
    matrix = np.abs(weight_matrices(model)[LAYER].detach().numpy().astype(np.float64))
    figure = Figure(figsize=(10.5, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    hull(left, matrix[:, 4], window=4, wanted=5)
    staircase(right, matrix[:, 4:10], window=4, budget=24)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def draw_resnet20(weights: Path) -> Figure:
    """What aligned and unaligned groups look like, and what they are worth."""
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=[1, 1, 1.7])
    crop(left, weights, Groups("4x1"), BLUE, "aligned")
    crop(middle, weights, Groups("4x1", unaligned="rows"), BLUE, "unaligned (orange: off the grid)")
    bars(right, HERE.parent / "results" / "resnet20_1thread.json")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    options = parser.parse_args()
    draw_selection(options.weights).savefig(HERE / "images" / "selection.png", dpi=110)
    draw_resnet20(options.weights).savefig(HERE / "images" / "resnet20.png", dpi=110)


if __name__ == "__main__":
    main()
