"""The pictures of a report, each an SVG fragment to stand inside a page.

Colours are Okabe and Ito's, which people with any colour blindness tell apart, and every pattern has a marker
of its own. Figures are made without pyplot, so nothing global is left behind.
"""

from __future__ import annotations

import hashlib
import html
import io
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from flexgroup._errors import FlexgroupError
from flexgroup.report._headline import engine_name, times
from flexgroup.report._results import MaskPicture, Profile, Report, Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = ("s", "o", "^", "D", "v", "P")
INK, SOFT, GREY, FAINT = "#1f2328", "#4b5563", "#6b7280", "#e3e6ea"
MAX_BARS = 24
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.labelsize": 10,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": FAINT,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "lines.linewidth": 2,
    "lines.markersize": 7,
    "svg.fonttype": "path",
}


def accuracy_plot(report: Report) -> str:
    """Accuracy in % against sparsity in %, a line a pattern, the dense network as a dashed line."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for number, pattern in enumerate(report.patterns):
            runs = _of(report, pattern)
            _line(axes, number, [_percent(run) for run in runs], [run.accuracy for run in runs], pattern)
        _reference(axes, report.dense.accuracy, f"dense, {report.dense.accuracy:.2f} %", below=False)
        _sparsity_axis(axes, report)
        axes.set_ylabel("accuracy (% of test images)")
        low, high = axes.get_ylim()
        axes.set_ylim(low, high + 0.12 * (high - low))
        _legend(figure, axes)

    return _svg(draw, (4.9, 4.0), f"Accuracy against sparsity for {', '.join(report.patterns)}")


def latency_plot(report: Report) -> str:
    """Milliseconds an image against sparsity; the engines' dense networks are dashed lines."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.set_yscale("log")
        for number, pattern in enumerate(report.patterns):
            runs = [run for run in _of(report, pattern) if report.engine in run.latency]
            ms = [run.latency[report.engine].median_ms for run in runs]
            _line(axes, number, [_percent(run) for run in runs], ms, pattern)
            if pattern == report.featured:
                _annotate_speedups(axes, report, runs, COLOURS[number % len(COLOURS)])
        for name, timing in report.dense.latency.items():
            label = f"dense, {engine_name(name, report)}: {timing.median_ms:.3g} ms"
            _reference(axes, timing.median_ms, label, below=False)
        _sparsity_axis(axes, report)
        _plain_log_axis(axes.yaxis, axes.set_ylim, axes.get_ylim())
        axes.set_ylabel("time an image (ms, log scale)")
        _legend(figure, axes)

    return _svg(draw, (4.9, 4.4), f"Latency against sparsity for {', '.join(report.patterns)}")


def tradeoff_plot(report: Report) -> str:
    """Accuracy in % against milliseconds an image: up and to the left is better."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.set_xscale("log")
        for number, pattern in enumerate(report.patterns):
            runs = [run for run in _of(report, pattern) if report.engine in run.latency]
            ms = [run.latency[report.engine].median_ms for run in runs]
            _line(axes, number, ms, [run.accuracy for run in runs], pattern)
        for name, timing in report.dense.latency.items():
            axes.plot(
                timing.median_ms, report.dense.accuracy, marker="X", color=GREY, markeredgecolor="white"
            )
            axes.annotate(
                engine_name(name, report),
                (timing.median_ms, report.dense.accuracy),
                xytext=(0, -10),
                textcoords="offset points",
                rotation=90,
                ha="center",
                va="top",
                fontsize=9,
                color=SOFT,
            )
        _plain_log_axis(axes.xaxis, axes.set_xlim, axes.get_xlim())
        axes.set_xlabel("time an image (ms, log scale)")
        axes.set_ylabel("accuracy (% of test images)")
        _legend(figure, axes)

    return _svg(draw, (4.9, 4.2), "Accuracy against latency")


def layers_plot(profiles: Sequence[Profile]) -> str:
    """Microseconds of each layer as bars, the profiles side by side; layers beyond the slowest are summed."""
    names = _slowest(profiles)
    bar = 0.8 / len(profiles)

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        widest = max(row.ms for profile in profiles for row in profile.rows) * 1e3
        for number, profile in enumerate(profiles):
            sums = {name: 0.0 for name in names}
            for row in profile.rows:
                sums[row.layer if row.layer in sums else _OTHERS] += row.ms * 1e3
            offsets = [i + (number - (len(profiles) - 1) / 2) * bar for i in range(len(names))]
            colour = GREY if number == 0 else COLOURS[1]
            total = sum(sums.values())
            label = f"{profile.label}: {total:.3g} µs in all"
            axes.barh(offsets, list(sums.values()), height=bar * 0.92, color=colour, label=label)
            for place, value in zip(offsets, sums.values(), strict=True):
                axes.text(value + 0.012 * widest, place, f"{value:.1f}", va="center", fontsize=9)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("time in the layer (µs an image)")
        axes.margins(x=0.12, y=0.02)
        _legend(figure, axes)

    return _svg(
        draw, (4.9, 1.5 + 0.36 * len(names)), "Time in each layer: " + ", ".join(p.label for p in profiles)
    )


def mask_plot(mask: MaskPicture, colour: str) -> str:
    """The kept weights of a crop; groups off the dashed grid, which aligned groups cannot be, are darker."""

    def draw(figure: Figure) -> None:
        from matplotlib.patches import Rectangle

        axes = figure.add_subplot()
        height, width = len(mask.rows), len(mask.rows[0])
        for top, column, rows in groups_in(mask):
            edge = "white" if rows > 1 else colour
            face = colour if top % mask.group_rows == 0 else _darker(colour)
            size = (0.9, rows - 0.1)
            axes.add_patch(
                Rectangle((column + 0.05, top + 0.05), *size, facecolor=face, edgecolor=edge, linewidth=0.4)
            )
        for row in range(0, height + 1, max(mask.group_rows, 4)):
            axes.axhline(row, color=GREY, linewidth=0.5, dashes=(3, 3))
        axes.set_xlim(0, width)
        axes.set_ylim(height, 0)
        axes.set_aspect("equal")
        axes.grid(visible=False)
        step = max(8, mask.group_rows)
        axes.set_yticks(range(0, height + 1, step))
        ticks = range(0, width + 1, step)
        axes.set_xticks(ticks, [str(mask.first_column + tick) for tick in ticks])
        axes.set_xlabel("column (input channel, ky, kx)")
        axes.set_ylabel("row (output channel)")
        for side in ("top", "right"):
            axes.spines[side].set_visible(True)

    return _svg(draw, (4.4, 4.0), f"Kept weights of layer {mask.layer}, {mask.pattern}")


def groups_in(mask: MaskPicture) -> list[tuple[int, int, int]]:
    """(first row, column, rows) of the groups that a mask shows, a column's runs cut from the top down."""
    found = []
    for column in range(len(mask.rows[0])):
        row = 0
        while row < len(mask.rows):
            end = row
            while end < len(mask.rows) and end - row < mask.group_rows and mask.rows[end][column] == "#":
                end += 1
            if end > row:
                found.append((row, column, end - row))
            row = max(end, row + 1)
    return found


def _of(report: Report, pattern: str) -> list[Run]:
    return sorted((run for run in report.runs if run.pattern == pattern), key=lambda run: run.sparsity)


def _percent(run: Run) -> float:
    return 100 * run.sparsity


def _line(axes: Axes, number: int, x: Sequence[float], y: Sequence[float], label: str) -> None:
    colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
    axes.plot(x, y, color=colour, marker=marker, label=label, markeredgecolor="white", markeredgewidth=0.8)


def _reference(axes: Axes, y: float, label: str, below: bool) -> None:
    """A dashed line across the plot with its name on it, at the left end where no data is."""
    axes.axhline(y, color=GREY, linewidth=1.3, dashes=(5, 3), zorder=1)
    offset, align = (-3, "top") if below else (3, "bottom")
    axes.annotate(
        label,
        (0.015, y),
        xycoords=("axes fraction", "data"),
        xytext=(0, offset),
        textcoords="offset points",
        va=align,
        ha="left",
        fontsize=9,
        color=SOFT,
    )


def _annotate_speedups(axes: Axes, report: Report, runs: Sequence[Run], colour: str) -> None:
    if not report.references:
        return
    for run in runs:
        gain = report.speedup(run, report.references[0])
        axes.annotate(
            times(gain or 0),
            (_percent(run), run.latency[report.engine].median_ms),
            xytext=(0, -9),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=10,
            fontweight="bold",
            color=colour,
        )


def _sparsity_axis(axes: Axes, report: Report) -> None:
    asked = sorted({100 * run.sparsity_asked for run in report.runs})
    room = 0.12 * (asked[-1] - asked[0]) if len(asked) > 1 else 2.0
    axes.set_xlim(asked[0] - room, min(100.0, asked[-1] + room))
    axes.set_xticks(asked, [f"{x:g}" for x in asked])
    axes.set_xlabel("sparsity of the pruned layers (%)")


def _plain_log_axis(
    axis: Axis, set_limits: Callable[[float, float], Any], limits: tuple[float, float]
) -> None:
    """Ticks at 1, 2 and 5 of each decade, written as plain numbers; room for labels at both ends."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    set_limits(limits[0] / 1.3, limits[1] * 1.2)
    axis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside upper left",
        ncols=3 if sum(map(len, labels)) < 48 else 1,
        columnspacing=1.2,
    )


_OTHERS = "all others"


def _slowest(profiles: Sequence[Profile]) -> list[str]:
    """The layers to show, in the network's order; the quickest give way to one bar for all of them."""
    cost: dict[str, float] = {}
    for profile in profiles:
        for row in profile.rows:
            cost[row.layer] = max(cost.get(row.layer, 0.0), row.ms)
    if len(cost) <= MAX_BARS:
        return list(cost)
    shown = set(sorted(cost, key=lambda name: -cost[name])[: MAX_BARS - 1])
    return [*(name for name in cost if name in shown), _OTHERS]


def _darker(colour: str) -> str:
    red, green, blue = (int(int(colour[i : i + 2], 16) * 0.55) for i in (1, 3, 5))
    return f"#{red:02x}{green:02x}{blue:02x}"


def _svg(draw: Callable[[Figure], None], inches: tuple[float, float], title: str) -> str:
    """Draw and return one ``<svg>`` element, without metadata, with a title for screen readers."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise FlexgroupError("the report's plots need matplotlib: pip install 'flexgroup[demo]'") from error
    salt = hashlib.sha256(title.encode()).hexdigest()[:8]
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": salt}):
        figure = Figure(figsize=inches, layout="constrained", facecolor="white")
        draw(figure)
        text = io.StringIO()
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(text, format="svg", metadata=nothing)
    return _as_fragment(text.getvalue(), title, salt)


def _as_fragment(text: str, title: str, salt: str) -> str:
    """An SVG file as an element for HTML: ids made unique to this picture, size left to the page's style."""
    text = text[text.index("<svg") :]
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{salt}-", text)
    text = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", text)
    head, body = text.split(">", 1)
    head = re.sub(r'\s+(width|height|version)="[^"]*"', "", head)
    return f'{head} role="img" aria-label="{html.escape(title)}">{body.strip()}'
