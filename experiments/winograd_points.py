"""Which points Winograd's method over rows takes with the least rounding: sets of pairs p and -p, tried at random.

    python experiments/winograd_points.py [--block 7] [--sets 60000] [--out winograd_points.json]

What rounding does to a block of rows grows with the root of the sum over the points of (A |G| |B|)^2, with the row's
entry of A and the lengths of the point's rows of G and B (`flexgroup.kernels.transform.transforms`). The sets with the
least of that are shown, and those that kernels have; errors are measured in 32 bits, over the largest output, beside
those of direct sums.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from flexgroup.kernels.transform import FINITE_POINTS, MOST_TAPS, transforms_at
from flexgroup.report import this_machine

PLANES, POSITIONS, SEEDS = 42, 4000, 5


def growth(points: tuple[float, ...], block: int) -> float:
    """How much more than one rounding a row of the output has."""
    a, g, b = transforms_at(points, MOST_TAPS, MOST_TAPS, block)
    return float(np.sqrt((a**2) @ (np.linalg.norm(g, axis=1) * np.linalg.norm(b, axis=1)) ** 2).max())


def errors(points: tuple[float, ...], block: int) -> tuple[float, float]:
    """The largest error over the largest output, by this method and by direct sums: medians over random numbers."""
    found = [_errors(points, block, np.random.default_rng(seed)) for seed in range(SEEDS)]
    ours, direct = np.median(found, axis=0)
    return float(ours), float(direct)


def _errors(points: tuple[float, ...], block: int, rng: np.random.Generator) -> tuple[float, float]:
    rows = rng.standard_normal((PLANES, block + MOST_TAPS - 1, POSITIONS)).astype(np.float32)
    weights = rng.standard_normal((PLANES, MOST_TAPS)).astype(np.float32)
    direct = np.zeros((block, POSITIONS), np.float32)
    for plane in range(PLANES):
        for tap in range(MOST_TAPS):
            direct += weights[plane, tap] * rows[plane, tap : tap + block]
    windows = np.stack([rows[:, tap : tap + block] for tap in range(MOST_TAPS)], axis=1).astype(np.float64)
    exact = np.einsum("pt,ptbn->bn", weights.astype(np.float64), windows)
    a, g, b = transforms_at(points, MOST_TAPS, MOST_TAPS, block)
    at_points = (weights @ g.T).astype(np.float32)
    values = np.einsum("kr,prn->pkn", b.astype(np.float32), rows)
    sums = np.zeros(values.shape[1:], np.float32)
    for plane in range(PLANES):
        sums += at_points[plane][:, None] * values[plane]
    largest = np.abs(exact).max()
    given = a.astype(np.float32) @ sums
    return float(np.abs(given - exact).max() / largest), float(np.abs(direct - exact).max() / largest)


def search(block: int, count: int) -> tuple[float, ...]:
    """The best of so many sets: 0, pairs, and where their number is odd a single one."""
    rng, size = np.random.default_rng(0), block + MOST_TAPS - 2
    best: tuple[float, tuple[float, ...]] = (np.inf, ())
    for _ in range(count):
        magnitudes = np.exp(rng.uniform(np.log(0.3), np.log(3.2), size // 2))
        if np.diff(np.sort(magnitudes)).min() > 0.05:
            points = (0.0, *(float(sign * each) for each in magnitudes for sign in (1, -1)))[:size]
            best = min(best, (growth(points, block), points))
    return best[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--block", type=int, default=7, help="rows of the output that are computed together")
    parser.add_argument("--sets", type=int, default=60_000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    sets = {f"{block} rows, as kernels have it": (block, points) for block, points in FINITE_POINTS.items()}
    sets["small powers of 2 and 3/4"] = (7, (0.0, 1.0, -1.0, 0.5, -0.5, 2.0, -2.0, 0.75, -0.75))
    sets[f"{options.block} rows, the best that was found"] = options.block, search(options.block, options.sets)
    table = Table("points", "", "rounding grows", "error", "of direct sums", title="Winograd's method over rows")
    rows: list[dict[str, Any]] = []
    for name, (block, points) in sets.items():
        ours, direct = errors(points, block)
        row = {"set": name, "block": block, "points": points, "growth": growth(points, block)}
        rows.append(row | {"error": ours, "direct": direct})
        shown = " ".join(f"{point:.3g}" for point in points)
        table.add_row(name, shown, f"{row['growth']:.1f}", f"{ours:.1e}", f"{direct:.1e}")
    Console(width=140).print(table)
    if options.out:
        options.out.write_text(json.dumps({"machine": asdict(this_machine()), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
