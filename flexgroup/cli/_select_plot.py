"""The picture of ``flexgroup select``: kept score against sparsity, and what each method loses against the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from flexgroup.cli._select import Choice

COLOURS = ("#6b7280", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")  # Okabe and Ito's, after a grey
MARKERS = ("o", "s", "^", "D", "v", "P")


def write_plot(path: Path, points: Mapping[float, Sequence[Choice]], title: str) -> None:
    """Draw the choices at each sparsity, and write the picture whole or not at all."""
    from flexgroup.report import write_picture

    def draw(figure: Figure) -> None:
        figure.suptitle(title, fontsize=10.5)
        left, right = figure.subplots(1, 2)
        _draw(left, points)
        _draw_gaps(right, points)

    write_picture(path, draw, (9.6, 4.2))


def _draw(axes: Axes, points: Mapping[float, Sequence[Choice]]) -> None:
    for number, row in enumerate(_rows(points)):
        shares = [100 * choices[row].share for choices in points.values()]
        _line(axes, number, points, shares, _name(points, row))
    axes.set_ylabel("total |weight| kept (%)")
    axes.set_ylim(bottom=0)


def _draw_gaps(axes: Axes, points: Mapping[float, Sequence[Choice]]) -> None:
    """Methods that are not exact lose so little that the other panel cannot show it."""
    drawn = False
    for number, row in enumerate(_rows(points)):
        gaps = [100 * choices[row].gap for choices in points.values()]
        if any(gaps):
            _line(axes, number, points, gaps, _name(points, row))
            drawn = True
    axes.axhline(0, color="black", linewidth=1.2, label="" if drawn else "exact")
    axes.set_ylabel("lost against the best groups of the pattern (%)")


def _line(axes: Axes, number: int, points: Mapping[float, object], y: Sequence[float], label: str) -> None:
    colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
    axes.plot([100 * share for share in points], y, color=colour, marker=marker, markersize=4.5, label=label)
    axes.set_xticks(range(80, 100, 5))
    axes.set_xlabel("sparsity (%)")
    axes.legend()


def _rows(points: Mapping[float, Sequence[Choice]]) -> range:
    return range(len(next(iter(points.values()))))


def _name(points: Mapping[float, Sequence[Choice]], row: int) -> str:
    choice = next(iter(points.values()))[row]
    return choice.pattern if choice.method in ("exact", "search") else f"{choice.pattern}, {choice.method}"
