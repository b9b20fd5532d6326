"""The results as a table, for the terminal and for Markdown and HTML, from the same rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flexgroup.report._headline import engine_name, points, significant, times
from flexgroup.report._results import Report, Run

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class ResultTable:
    """Column titles and rows of text; ``marked`` are the rows that the headline is about."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marked: frozenset[int] = frozenset()


def result_table(report: Report, marked: Run | None = None) -> ResultTable:
    """One row for the dense network in every engine, then one for every run with its speed-ups."""
    over = [name for name in (*report.references, report.engine) if name in report.dense.latency]
    against = (f"vs {engine_name(name, report).removeprefix('our ')}" for name in over)
    columns = ("network", "sparsity %", "accuracy %", "points", "ms", *against)
    rows = []
    for name in over:
        dense = report.dense
        gains = (_gain(dense.latency[other].median_ms, dense.latency[name].median_ms) for other in over)
        label = f"{dense.pattern}, {name.split(',')[0]}"
        rows.append((label, *_quality(report, dense), _time(dense, name), *gains))
    for run in report.runs:
        ratios = (report.speedup(run, name) for name in over)
        gains = ("" if ratio is None else times(ratio) for ratio in ratios)
        rows.append((run.pattern, *_quality(report, run), _time(run, report.engine), *gains))
    chosen = frozenset(len(over) + i for i, run in enumerate(report.runs) if run is marked)
    return ResultTable(columns, tuple(rows), chosen)


def markdown(table: ResultTable) -> str:
    """A GitHub table; the first column is words, the others are numbers and align right."""
    rule = ("---", *["---:"] * (len(table.columns) - 1))
    cells = [[cell.replace("|", "\\|") for cell in line] for line in (table.columns, rule, *table.rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def rich_table(table: ResultTable, title: str | None = None) -> Table:
    """The same for a terminal, with the marked rows in bold."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    drawn = Table(title=title, title_justify="left", header_style="bold", box=SIMPLE_HEAD, padding=0)
    for number, column in enumerate(table.columns):
        drawn.add_column(column, justify="left" if number == 0 else "right", no_wrap=number == 0)
    for number, row in enumerate(table.rows):
        drawn.add_row(*row, style="bold green" if number in table.marked else "")
    return drawn


def _quality(report: Report, run: Run) -> tuple[str, str, str]:
    sparsity = "" if run is report.dense else f"{100 * run.sparsity:.1f}"
    return sparsity, f"{run.accuracy:.2f}", "" if run is report.dense else points(report.points(run))


def _time(run: Run, engine: str) -> str:
    return significant(run.latency[engine].median_ms) if engine in run.latency else ""


def _gain(theirs: float, ours: float) -> str:
    return times(theirs / ours)
