"""The runs as pictures: error against sparsity, error against latency, and all shapes at one sparsity."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from _cifar10_front import Place, compared, front_of, places
from _cifar10_results import Result, error_of, main_budget, measure_of, pick, shapes_of
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from flexgroup.report._style import COLOURS, GREY, INK, MARKERS, SOFT, png

TITLES = ("groups of one column", "groups of several columns")
FRONT = "#f2d16b"
_ROLES = {
    "aligned": (COLOURS[1], "o", False),
    "permuted": (COLOURS[2], "D", False),
    "unaligned": (COLOURS[0], "s", True),
    "unaligned, permuted": (COLOURS[3], "D", True),
}
Line = Callable[[str, str], list[Place]]


def sparsity_plot(results: Sequence[Result], recipe: str) -> bytes:
    """Error against sparsity: aligned groups dashed, unaligned ones solid, error bars over seeds.

    Sparsities stand where the logarithm of what is kept puts them: each halving is as far as the next.
    """
    budget = main_budget(results, recipe)
    runs = [one for one in results if one.recipe == recipe and one.budget == budget]
    measure = measure_of(results)
    sparsities = sorted({one.sparsity for one in runs})

    def line(groups: str, role: str) -> list[Place]:
        found = ((s, error_of(pick(runs, groups, role, s), measure)) for s in sparsities)
        return [Place(-math.log2(1 - s), error) for s, error in found if error is not None]

    def draw(figure: Figure) -> None:
        for axes, shapes in _panels(figure, runs):
            _draw_shapes(axes, shapes, line)
            _draw(axes, line("1x1", "aligned"), INK, "h", "-", filled=True)
            others = _draw_low(axes, line("filter", "aligned"), "whole filters")
            axes.set_xticks([-math.log2(1 - s) for s in sparsities], [f"{100 * s:g}" for s in sparsities])
            axes.set_xlabel("weights pruned (%)")
            _name_shapes(axes, shapes, "lower right")
        _finish(figure, measure, others)

    return png(draw, (9.6, 4.8))


def latency_plot(results: Sequence[Result], recipe: str) -> bytes:
    """Error against milliseconds an image; smaller dense networks are a line of their own; the front is marked."""
    runs = [one for one in compared(results, recipe) if one.ms is not None]
    measure = measure_of(results)
    small = places([one for one in results if one.is_dense], measure)
    front = front_of(places(compared(results, recipe), measure))

    def line(groups: str, role: str) -> list[Place]:
        return places([one for one in runs if (one.groups, one.role) == (groups, role)], measure)

    def draw(figure: Figure) -> None:
        for axes, shapes in _panels(figure, runs):
            axes.plot(*_points(front), color=FRONT, linewidth=7, alpha=0.6, zorder=1)
            _draw_shapes(axes, shapes, line)
            _draw(axes, line("1x1", "aligned"), INK, "h", "-", filled=True)
            axes.plot(*_points(front_of(small)), color=GREY, linestyle=":", zorder=2)
            axes.plot(*_points(small), "X", color=GREY, markersize=8, markeredgecolor="white", zorder=3)
            others = _draw_low(axes, line("filter", "aligned"), "whole filters")
            axes.plot(
                *_points(line("2:4", "aligned")), "*", color=INK, markersize=11, markeredgecolor="white", zorder=3
            )
            axes.set_xscale("log")
            _plain_ticks(axes.xaxis, (1, 1.5, 2, 3, 5, 7))
            axes.set_xlabel("time an image, one thread (ms, log scale)")
            _name_shapes(axes, shapes, "upper right")
        if line("2:4", "aligned"):
            others.append(_sample("2:4", INK, "*", ""))
        if small:
            others.append(_sample("smaller dense networks", GREY, "X", ":"))
        others.append(
            Line2D([], [], color=FRONT, linewidth=7, alpha=0.6, label="front: nothing is both faster and better")
        )
        _finish(figure, measure, others)

    return png(draw, (9.6, 5.4))


def shapes_plot(results: Sequence[Result], recipe: str, sparsity: float) -> bytes:
    """All shapes at one sparsity, one below the other: what a group's freedom is worth."""
    budget = main_budget(results, recipe)
    runs = [one for one in results if one.recipe == recipe and one.budget == budget]
    measure = measure_of(results)
    shapes = [shape for shape in shapes_of(runs) if any(pick(runs, shape, role, sparsity) for role in _ROLES)]
    fine = error_of(pick(runs, "1x1", "aligned", sparsity), measure)

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for row, shape in enumerate(shapes):
            errors = {role: error_of(pick(runs, shape, role, sparsity), measure) for role in _ROLES}
            known = {role: error for role, error in errors.items() if error is not None}
            values = [error.value for error in known.values()]
            axes.plot([min(values), max(values)], [row, row], color=GREY, linewidth=1.2, zorder=1)
            for role, error in known.items():
                colour, marker, filled = _ROLES[role]
                axes.errorbar(
                    error.value,
                    row,
                    xerr=error.deviation,
                    color=colour,
                    marker=marker,
                    markersize=9,
                    capsize=3,
                    elinewidth=1.2,
                    markerfacecolor=colour if filled else "white",
                    markeredgewidth=1.5,
                    zorder=3,
                )
        if fine is not None:
            axes.axvline(fine.value, color=INK, linewidth=1.3, dashes=(5, 3), zorder=1)
        axes.set_yticks(range(len(shapes)), shapes)
        axes.set_ylim(len(shapes) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(f"{measure} error (%) at {100 * sparsity:g} % pruned")
        axes.set_ylabel("groups")
        samples = [
            Line2D(
                [], [], color=c, marker=m, linestyle="", markersize=9, markerfacecolor=c if f else "white", label=role
            )
            for role, (c, m, f) in _ROLES.items()
        ]
        if fine is not None:
            samples.append(Line2D([], [], color=INK, linewidth=1.3, dashes=(5, 3), label="fine-grained"))
        figure.legend(handles=samples, loc="outside upper left", ncols=4)

    return png(draw, (7.2, 1.3 + 0.42 * len(shapes)))


def _panels(figure: Figure, runs: Sequence[Result]) -> list[tuple[Axes, list[str]]]:
    """Shapes of one column left, all others right, on the same scales; one panel where only one is needed."""
    shapes = shapes_of(runs)
    parts = [[shape for shape in shapes if shape.endswith("x1") is narrow] for narrow in (True, False)]
    titled = [(title, part) for title, part in zip(TITLES, parts, strict=True) if part]
    drawn = figure.subplots(1, len(titled), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (title, _) in zip(drawn, titled, strict=True):
        axes.set_title(title, fontsize=10.5, loc="left", color=SOFT)
    return [(axes, part) for axes, (_, part) in zip(drawn, titled, strict=True)]


def _draw_shapes(axes: Axes, shapes: Sequence[str], line: Line) -> None:
    for number, shape in enumerate(shapes):
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        _draw(axes, line(shape, "aligned"), colour, marker, "--", filled=False)
        _draw(axes, line(shape, "unaligned"), colour, marker, "-", filled=True)


def _draw(axes: Axes, places: Sequence[Place], colour: str, marker: str, style: str, filled: bool) -> None:
    if not places:
        return
    axes.errorbar(
        [place.x for place in places],
        [place.error.value for place in places],
        yerr=[place.error.deviation or 0.0 for place in places],
        color=colour,
        marker=marker,
        linestyle=style,
        linewidth=2 if filled else 1.4,
        markersize=6.5,
        markerfacecolor=colour if filled else "white",
        markeredgecolor="white" if filled else colour,
        elinewidth=1.2,
        capsize=2.5 if any(place.error.deviation for place in places) else 0,
        zorder=3 if filled else 2,
    )


def _draw_low(axes: Axes, line: Sequence[Place], name: str) -> list[Line2D]:
    """A pattern that is far worse than the others is drawn where it is in sight; its range stands in the legend."""
    if not line:
        return []
    top = 1.3 * axes.get_ylim()[1]
    _draw(axes, [place for place in line if place.error.value <= top], SOFT, "p", ":", filled=True)
    values = [place.error.value for place in line]
    span = f"{min(values):.0f} %" if len(values) == 1 else f"{min(values):.0f} to {max(values):.0f} %"
    return [_sample(f"{name}: {span}", SOFT, "p", ":")]


def _name_shapes(axes: Axes, shapes: Sequence[str], where: str) -> None:
    samples = [
        _sample(shape, COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)], "-")
        for number, shape in enumerate(shapes)
    ]
    axes.legend(handles=samples, loc=where, frameon=True, framealpha=0.85, edgecolor="none", ncols=2)


def _sample(name: str, colour: str, marker: str, style: str) -> Line2D:
    return Line2D([], [], color=colour, marker=marker, linestyle=style, markeredgecolor="white", label=name)


def _points(line: Sequence[Place]) -> tuple[list[float], list[float]]:
    return [place.x for place in line], [place.error.value for place in line]


def _plain_ticks(axis: Axis, digits: Sequence[float]) -> None:
    """These digits of each decade, as plain numbers."""
    axis.set_major_locator(FixedLocator([digit * 10.0**power for power in range(-4, 4) for digit in digits]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def _finish(figure: Figure, measure: str, others: Sequence[Line2D]) -> None:
    first = figure.axes[0]
    first.set_yscale("log")
    low, high = first.get_ylim()
    _plain_ticks(first.yaxis, (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9))
    if high < 2 * low:
        first.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    first.set_ylabel(f"{measure} error (%, log scale)")
    styles = [
        Line2D([], [], color=SOFT, linestyle="-", marker="o", markeredgecolor="white", label="unaligned"),
        Line2D([], [], color=SOFT, linestyle="--", linewidth=1.4, marker="o", markerfacecolor="white", label="aligned"),
        _sample("fine-grained", INK, "h", "-"),
    ]
    figure.legend(handles=[*styles, *others], loc="outside upper left", ncols=4)
