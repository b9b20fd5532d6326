"""The pictures of one network: where its time goes, and which weights survive."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from flexgroup.report._results import LayerTime, MaskPicture, Profile
from flexgroup.report._style import COLOURS, GREY, legend, svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_BARS = 24
MIN_SHARE = 0.02  # of the time of at least one profile
OTHERS = "all others"


def layers_plot(profiles: Sequence[Profile]) -> str:
    """Microseconds of each layer as bars, the profiles side by side; layers that take next to nothing are summed."""
    names = _slowest(profiles)
    bar = 0.8 / len(profiles)

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        widest = max(row.ms for profile in profiles for row in profile.rows) * 1e3
        for number, profile in enumerate(profiles):
            sums = {name: 0.0 for name in names}
            for row in profile.rows:
                sums[_layer(row) if _layer(row) in sums else OTHERS] += row.ms * 1e3
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
        legend(figure, axes)

    return svg(draw, (4.9, 1.5 + 0.36 * len(names)), "Time in each layer: " + ", ".join(p.label for p in profiles))


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
            axes.add_patch(Rectangle((column + 0.05, top + 0.05), *size, facecolor=face, edgecolor=edge, linewidth=0.4))
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

    return svg(draw, (4.1, 4.1), f"Kept weights of layer {mask.layer}, {mask.pattern}")


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


def _slowest(profiles: Sequence[Profile]) -> list[str]:
    """The layers to show, in the network's order; those that never matter give way to one bar for all of them."""
    share: dict[str, float] = {}
    for profile in profiles:
        of_one: dict[str, float] = {}
        for row in profile.rows:
            of_one[_layer(row)] = of_one.get(_layer(row), 0.0) + row.share
        for name, part in of_one.items():
            share[name] = max(share.get(name, 0.0), part)
    ranked = sorted(share, key=lambda name: -share[name])
    shown = {name for name in ranked[:MAX_BARS] if share[name] >= MIN_SHARE}
    return [*(name for name in share if name in shown), *([OTHERS] if len(shown) < len(share) else [])]


def _layer(row: LayerTime) -> str:
    """Steps of one layer have its name and then a slash."""
    return row.layer.partition("/")[0]


def _darker(colour: str) -> str:
    red, green, blue = (int(int(colour[i : i + 2], 16) * 0.55) for i in (1, 3, 5))
    return f"#{red:02x}{green:02x}{blue:02x}"
