"""The one sentence that a report is about, and the figures beside it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from flexgroup.report._results import Report, Run

POINTS_TO_SPARE = 1.0
DENSE_CODE = "our dense code"


@dataclass(frozen=True)
class Figure:
    """One number in large type, ``value``, and what it is."""

    value: str
    meaning: str


@dataclass(frozen=True)
class Headline:
    """``sentence`` says how much faster and at what cost; ``details``, which network against which times."""

    run: Run
    sentence: str
    details: str
    figures: tuple[Figure, ...]


def headline(report: Report) -> Headline | None:
    """Speak of the featured pattern (or of any) where it is sparsest and loses at most one point.

    Where every run loses more, of the one that loses least. None if nothing was timed.
    """
    timed = [run for run in report.runs if report.engine in run.latency]
    timed = [run for run in timed if run.pattern == report.featured] or timed
    if not timed:
        return None
    spare = [run for run in timed if report.points(run) >= -POINTS_TO_SPARE]
    run = max(spare, key=lambda run: run.sparsity_asked) if spare else max(timed, key=report.points)
    gains = [(name, report.speedup(run, name)) for name in (*report.references, report.engine)]
    known = [(engine_name(name, report), gain) for name, gain in gains if gain is not None]
    if not known:
        return None
    cost = f"at {points(report.points(run))} points of accuracy"
    sentence = f"{times(known[0][1])} {_compared(known[0][1])} {known[0][0]} {cost}"
    figures = [Figure(times(gain), f"{_compared(gain)} {name}") for name, gain in known]
    figures.append(Figure(points(report.points(run)), f"points of accuracy ({run.accuracy:.2f} %)"))
    return Headline(run, sentence, _details(report, run), tuple(figures))


def engine_name(label: str, report: Report) -> str:
    """What the page calls the dense network in an engine: ``"ONNX Runtime"``; our own is ``"dense code"``."""
    return DENSE_CODE if label == report.engine else label.split(",")[0]


def times(factor: float) -> str:
    """A ratio as it is read: ``"12x"``, ``"4.2x"``, ``"0.83x"``."""
    return f"{factor:.0f}x" if factor >= 10 else f"{factor:.1f}x" if factor >= 1 else f"{factor:.2f}x"


def _compared(factor: float) -> str:
    """What follows a ratio of speeds; a loss is not called a gain."""
    return "faster than" if factor >= 1 else "the speed of"


def points(difference: float) -> str:
    """A difference of percentages with its sign: ``"-0.28"``, ``"+0.00"`` is written ``"0.00"``."""
    text = f"{difference:+.2f}"
    return "0.00" if float(text) == 0 else text.replace("-", "\u2212")


def significant(value: float) -> str:
    """Three significant digits, trailing zeros too: ``"0.0410"``, ``"12.3"``, ``"412"``."""
    digits = max(0, 2 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{value:.{digits}f}"


def _details(report: Report, run: Run) -> str:
    ours = significant(run.latency[report.engine].median_ms)
    threads = report.engine.partition(",")[2].strip()
    others = [
        f"{engine_name(name, report)} {significant(report.dense.latency[name].median_ms)} ms"
        for name in (*report.references, report.engine)
        if name in report.dense.latency
    ]
    where = f" on {threads}" if threads else ""
    return (
        f"{run.pattern} at {run.sparsity_asked:.0%} sparsity takes {ours} ms an image{where}. "
        f"The dense network takes: {', '.join(others)}."
    ).replace("%", " %")
