"""The plots of a report: what the runs cost and gain. Each is an SVG fragment to stand inside a page."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from flexgroup.report._headline import engine_name, times
from flexgroup.report._results import Report, Run
from flexgroup.report._style import COLOURS, FAINT, GREY, MARKERS, SOFT, legend, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure


def accuracy_plot(report: Report) -> str:
    """Accuracy in % against sparsity in %, a line a pattern, the dense network as a dashed line."""
    return _accuracy(report, report.runs, lambda run: run.accuracy, "Accuracy against sparsity")


def one_shot_plot(report: Report) -> str:
    """The same before the pruned networks were trained at all."""
    runs = [run for run in report.runs if run.one_shot_accuracy is not None]
    return _accuracy(report, runs, lambda run: run.one_shot_accuracy or 0.0, "Accuracy right after pruning")


def _accuracy(report: Report, runs: Sequence[Run], of: Callable[[Run], float], title: str) -> str:
    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for number, pattern in enumerate(report.patterns):
            line = _of(runs, pattern)
            _line(axes, number, [_percent(run) for run in line], [of(run) for run in line], pattern)
        _reference(axes, report.dense.accuracy, f"dense, {report.dense.accuracy:.2f} %")
        _sparsity_axis(axes, report)
        _accuracy_axis(axes, report)
        legend(figure, axes)

    return svg(draw, (4.9, 4.4), f"{title}: {', '.join(report.patterns)}")


def magnitude_plot(report: Report) -> str:
    """The share of the dense network's total |weight| that survives, a bar a pattern at each sparsity."""
    runs = [run for run in report.runs if run.magnitude_kept is not None]
    asked = sorted({run.sparsity_asked for run in runs})
    bar = 0.84 / len(report.patterns)

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for number, pattern in enumerate(report.patterns):
            line = _of(runs, pattern)
            shift = (number - (len(report.patterns) - 1) / 2) * bar
            places = [asked.index(run.sparsity_asked) + shift for run in line]
            shares = [100 * (run.magnitude_kept or 0.0) for run in line]
            colour = COLOURS[number % len(COLOURS)]
            bars = axes.bar(places, shares, width=bar * 0.94, color=colour, label=pattern)
            axes.bar_label(bars, fmt="%.1f", fontsize=9, padding=2)
        axes.set_xticks(range(len(asked)), [f"{100 * share:g}" for share in asked])
        axes.grid(axis="x", visible=False)
        axes.set_xlabel("sparsity of the pruned layers (%)")
        axes.set_ylabel("total |weight| kept (% of dense)")
        axes.margins(y=0.1)
        legend(figure, axes)

    return svg(draw, (4.9, 4.0), f"Magnitude kept: {', '.join(report.patterns)}")


def latency_plot(report: Report) -> str:
    """Milliseconds an image against sparsity; the engines' dense networks are dashed lines."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.set_yscale("log")
        for number, pattern in enumerate(report.patterns):
            runs = [run for run in _of(report.runs, pattern) if report.engine in run.latency]
            ms = [run.latency[report.engine].median_ms for run in runs]
            _line(axes, number, [_percent(run) for run in runs], ms, pattern)
            if pattern == report.featured:
                _annotate_speedups(axes, report, runs, COLOURS[number % len(COLOURS)])
        for name, timing in report.dense.latency.items():
            label = f"dense, {engine_name(name, report)}: {timing.median_ms:.3g} ms"
            _reference(axes, timing.median_ms, label)
        _sparsity_axis(axes, report)
        _plain_log_axis(axes.yaxis, axes.set_ylim, axes.get_ylim())
        axes.set_ylabel("time an image (ms, log scale)")
        legend(figure, axes)

    return svg(draw, (4.9, 4.4), f"Latency against sparsity for {', '.join(report.patterns)}")


def tradeoff_plot(report: Report) -> str:
    """Accuracy in % against milliseconds an image: up and to the left is better."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.set_xscale("log")
        for number, pattern in enumerate(report.patterns):
            runs = [run for run in _of(report.runs, pattern) if report.engine in run.latency]
            ms = [run.latency[report.engine].median_ms for run in runs]
            _line(axes, number, ms, [run.accuracy for run in runs], pattern)
        for name, timing in report.dense.latency.items():
            axes.plot(timing.median_ms, report.dense.accuracy, marker="X", color=GREY, markeredgecolor="white")
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
        _accuracy_axis(axes, report)
        legend(figure, axes)

    return svg(draw, (4.9, 4.4), "Accuracy against latency")


def _of(runs: Sequence[Run], pattern: str) -> list[Run]:
    return sorted((run for run in runs if run.pattern == pattern), key=lambda run: run.sparsity)


def _percent(run: Run) -> float:
    return 100 * run.sparsity


def _line(axes: Axes, number: int, x: Sequence[float], y: Sequence[float], label: str) -> None:
    colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
    axes.plot(x, y, color=colour, marker=marker, label=label, markeredgecolor="white", markeredgewidth=0.8)


def _reference(axes: Axes, y: float, label: str) -> None:
    """A dashed line across the plot with its name on it, at the left end where no data is."""
    axes.axhline(y, color=GREY, linewidth=1.3, dashes=(5, 3), zorder=1)
    axes.annotate(
        label,
        (0.015, y),
        xycoords=("axes fraction", "data"),
        xytext=(0, 3),
        textcoords="offset points",
        va="bottom",
        ha="left",
        fontsize=9,
        color=SOFT,
        bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8},
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


def _accuracy_axis(axes: Axes, report: Report) -> None:
    """At least three points from end to end, so that chance looks like chance; chance itself as a grey band."""
    axes.axhspan(*chance_interval(report.dense.accuracy, report.test_images), color=FAINT, alpha=0.6, zorder=0)
    axes.set_ylabel("accuracy (% of test images)")
    low, high = axes.get_ylim()
    low = min(low, report.dense.accuracy - 2.4)
    axes.set_ylim(low, high + 0.06 * (high - low))


def chance_interval(accuracy: float, images: int) -> tuple[float, float]:
    """The 95 % confidence interval, in %, of an accuracy in % measured on so many images.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference" (1927).
    """
    share, z = accuracy / 100, 1.96
    centre = share + z * z / (2 * images)
    reach = z * math.sqrt(share * (1 - share) / images + z * z / (4 * images * images))
    scale = 100 / (1 + z * z / images)
    return scale * (centre - reach), scale * (centre + reach)


def _sparsity_axis(axes: Axes, report: Report) -> None:
    asked = sorted({100 * run.sparsity_asked for run in report.runs})
    room = 0.12 * (asked[-1] - asked[0]) if len(asked) > 1 else 2.0
    axes.set_xlim(asked[0] - room, min(100.0, asked[-1] + room))
    axes.set_xticks(asked, [f"{x:g}" for x in asked])
    axes.set_xlabel("sparsity of the pruned layers (%)")


def _plain_log_axis(axis: Axis, set_limits: Callable[[float, float], Any], limits: tuple[float, float]) -> None:
    """Ticks at 1, 2 and 5 of each decade, written as plain numbers; room for labels at both ends."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    set_limits(limits[0] / 1.3, limits[1] * 1.2)
    axis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
