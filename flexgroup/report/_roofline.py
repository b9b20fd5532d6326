"""A profile as a roofline (Williams, Waterman and Patterson, 2009): how near every layer is to the machine's limits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flexgroup.report._style import COLOURS, GREY, INK, MARKERS, write_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from flexgroup.engine import Profile, ProfileRow

LARGEST_AREA, SMALLEST_AREA = 900.0, 9.0  # square points: of a layer that takes all the time, and of any
SEEN = 0.001  # of the time: layers that take less do not stretch the picture


def write_roofline(profile: Profile, path: Path, title: str) -> None:
    """Draw every layer that multiplies: its rate against its operations a byte, its area the time that it takes.

    Above are the machine's limits for as many cores as the profile has threads: the peak of multiply-adds, and the
    bandwidth of every level of memory. A layer has the colour of the level that holds what one of its calls moves; it
    is above that line only where a nearer level still has a part. ``path`` ends in .svg or .png.

    Raises `FlexgroupError` if matplotlib is not installed, and `OSError` if the file cannot be written.
    """
    rows = [row for row in profile.rows if row.gflops and row.bytes and row.share >= SEEN]

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.set(xscale="log", yscale="log", xlabel="operations a byte read or written", ylabel="GFLOP/s")
        _layers(axes, profile, rows)
        _limits(axes, profile)
        axes.set_title(title, fontsize=10.5, loc="left")
        figure.legend(loc="outside upper left", ncols=4, columnspacing=1.2)

    write_picture(path, draw, (7.6, 5.0))


def _layers(axes: Axes, profile: Profile, rows: list[ProfileRow]) -> None:
    families = list(dict.fromkeys(row.node_type for row in rows))
    for row in rows:
        axes.scatter(
            row.gflops * row.ms * 1e6 / row.bytes,
            row.gflops,
            max(SMALLEST_AREA, LARGEST_AREA * row.share),
            color=COLOURS[_level(profile, row) % len(COLOURS)],
            marker=MARKERS[families.index(row.node_type) % len(MARKERS)],
            alpha=0.65,
            linewidth=0,
        )
    for number, family in enumerate(families):
        share = sum(row.share for row in profile.rows if row.node_type == family)
        marker = MARKERS[number % len(MARKERS)]
        axes.plot([], [], color=GREY, marker=marker, linestyle="", label=f"{family}, {share:.0%} of the time")


def _level(profile: Profile, row: ProfileRow) -> int:
    """The number of the level that holds what one call of a layer moves; 0 if the machine is not known."""
    machine = profile.machine
    return 0 if machine is None else machine.levels.index(machine.level_of(row.bytes // max(row.calls, 1)))


def _limits(axes: Axes, profile: Profile) -> None:
    machine = profile.machine
    if machine is None:
        return
    peak = machine.peak_of(profile.threads) / 1e9
    rates = [machine.bandwidth_at(level, profile.threads) / 1e9 for level in machine.levels]
    (first, last), (low, _) = axes.get_xlim(), axes.get_ylim()
    first, last = min(first, peak / max(rates) / 2), max(last, 2 * peak / min(rates))
    axes.plot([first, last], [peak, peak], color=INK, linewidth=1.4, label=f"{peak:.0f} GFLOP/s")
    for number, (level, rate) in enumerate(zip(machine.levels, rates, strict=True)):
        colour = COLOURS[number % len(COLOURS)]
        line = [first, peak / rate], [first * rate, peak]
        axes.plot(*line, color=colour, linewidth=1.4, label=f"{level.name}, {rate:.0f} GB/s")
    axes.set(xlim=(first, last), ylim=(low, peak * 1.6))
