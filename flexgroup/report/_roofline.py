"""A profile as a roofline (Williams, Waterman and Patterson, 2009): how near every layer is to the machine's limits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flexgroup.report._style import COLOURS, GREY, INK, MARKERS, SOFT, legend, write_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from flexgroup.engine import Profile

LARGEST_AREA = 900.0  # square points, of a layer that takes all the time
SMALLEST_AREA = 6.0


def write_roofline(profile: Profile, path: Path, title: str) -> None:
    """Draw every layer that multiplies: its rate against its multiply-adds a byte, its area the time that it takes.

    Above them are the machine's limits: the peak of multiply-adds, and the bandwidth of every level of memory, of as
    many cores as the profile has threads. ``path`` ends in .svg or .png.
    """

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.set(xscale="log", yscale="log", xlabel="operations a byte read or written", ylabel="GFLOP/s")
        _layers(axes, profile)
        _limits(axes, profile)
        axes.set_title(title, fontsize=10.5, loc="left")
        legend(figure, axes)

    write_picture(path, draw, (7.2, 4.8))


def _layers(axes: Axes, profile: Profile) -> None:
    for number, family in enumerate(dict.fromkeys(row.node_type for row in profile.types)):
        rows = [row for row in profile.rows if row.node_type == family and row.gflops and row.bytes]
        if rows:
            axes.scatter(
                [row.gflops * row.ms * 1e6 / row.bytes for row in rows],
                [row.gflops for row in rows],
                [max(SMALLEST_AREA, LARGEST_AREA * row.share) for row in rows],
                color=COLOURS[number % len(COLOURS)],
                marker=MARKERS[number % len(MARKERS)],
                alpha=0.7,
                linewidth=0,
                label=f"{family}, {sum(row.share for row in rows):.0%} of the time",
            )


def _limits(axes: Axes, profile: Profile) -> None:
    machine = profile.machine
    if machine is None:
        return
    peak = machine.peak_of(profile.threads) / 1e9
    first, last = axes.get_xlim()
    low, _ = axes.get_ylim()
    last = max(last, 2 * peak * 1e9 / machine.levels[-1].bandwidth)
    axes.axhline(peak, color=INK, linewidth=1.4)
    axes.annotate(f"{peak:.0f} GFLOP/s", (last, peak), (-4, 4), textcoords="offset points", ha="right", fontsize=9)
    for level in machine.levels:
        rate = machine.bandwidth_of(level.size or 1 << 62, profile.threads) / 1e9
        axes.plot([first, peak / rate], [first * rate, peak], color=GREY, linewidth=1.1)
        place = max(first, low / rate) * 1.15
        axes.annotate(
            f"{level.name} {rate:.0f} GB/s",
            (place, place * rate),
            (0, 3),
            textcoords="offset points",
            color=SOFT,
            fontsize=8.5,
            rotation=45,
            rotation_mode="anchor",
            transform_rotates_text=True,
        )
    axes.set(xlim=(first, last), ylim=(low, peak * 2))
