"""How every picture looks, and how it becomes a file, or an SVG fragment to stand inside a page.

Colours are Okabe and Ito's, which people with any colour blindness tell apart, and every pattern has a marker
of its own. Figures are made without pyplot, so nothing global is left behind.
"""

from __future__ import annotations

import hashlib
import html
import importlib.util
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flexgroup._errors import FlexgroupError
from flexgroup.report._files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = ("s", "o", "^", "D", "v", "P")
FORMATS = (".svg", ".png")
INK, SOFT, GREY, FAINT = "#1f2328", "#4b5563", "#6b7280", "#e3e6ea"
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


def svg(draw: Callable[[Figure], None], inches: tuple[float, float], title: str) -> str:
    """Draw and return one ``<svg>`` element, without metadata, with a title for screen readers."""
    salt = hashlib.sha256(title.encode()).hexdigest()[:8]
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    text = _drawn(draw, inches, {"svg.hashsalt": salt}, format="svg", metadata=nothing).decode()
    return _as_fragment(text, title, salt)


def png(draw: Callable[[Figure], None], inches: tuple[float, float], dots_an_inch: int = 150) -> bytes:
    """Draw and return a PNG file for Markdown pages, without metadata: the same picture is the same bytes."""
    return _drawn(draw, inches, {}, format="png", dpi=dots_an_inch, metadata={"Software": None})


def check_picture(path: Path, option: str) -> None:
    """Raise `FlexgroupError` if the picture that ``option`` names could not be drawn, or not be written."""
    if path.suffix not in FORMATS:
        raise FlexgroupError(f"{option} {path} names no picture; end it in {' or '.join(FORMATS)}")
    if not path.parent.is_dir():
        raise FlexgroupError(f"{option} {path}: there is no folder {path.parent}; make it first")
    if importlib.util.find_spec("matplotlib") is None:
        raise FlexgroupError(f"{option} needs matplotlib: pip install 'flexgroup[demo]'")


def write_picture(path: Path, draw: Callable[[Figure], None], inches: tuple[float, float]) -> None:
    """Draw to an .svg or .png file, which is written whole or not at all."""
    if path.suffix == ".png":
        write_whole(path, png(draw, inches))
    else:
        write_whole(path, _drawn(draw, inches, {"svg.hashsalt": path.stem}, format="svg", metadata={"Date": None}))


def _drawn(draw: Callable[[Figure], None], inches: tuple[float, float], style: Any, **saved: Any) -> bytes:
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise FlexgroupError("plots need matplotlib: pip install 'flexgroup[demo]'") from error
    with matplotlib.rc_context({**_STYLE, **style}):
        figure = Figure(figsize=inches, layout="constrained", facecolor="white")
        draw(figure)
        content = io.BytesIO()
        figure.savefig(content, **saved)
    return content.getvalue()


def legend(figure: Figure, axes: Axes) -> None:
    """Name the lines above the plot: side by side where that fits."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside upper left",
        ncols=3 if sum(map(len, labels)) < 48 else 1,
        columnspacing=1.2,
    )


def _as_fragment(text: str, title: str, salt: str) -> str:
    """An SVG file as an element for HTML: ids made unique to this picture, size left to the page's style."""
    text = text[text.index("<svg") :]
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{salt}-", text)
    text = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", text)
    head, body = text.split(">", 1)
    head = re.sub(r'\s+(width|height|version)="[^"]*"', "", head)
    return f'{head} role="img" aria-label="{html.escape(title)}">{body.strip()}'
