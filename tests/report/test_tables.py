"""The table, in all its forms."""

from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from flexgroup.report import Report, headline, markdown, result_table, rich_table


def test_every_speedup_stands_beside_its_baselines(report: Report) -> None:
    table = result_table(report)
    assert table.columns == (
        *("network", "sparsity %", "accuracy %", "points", "ms"),
        *("vs ONNX Runtime", "vs PyTorch", "vs dense code"),
    )
    assert table.rows[0] == ("dense, ONNX Runtime", "", "98.80", "", "0.0930", "1.0x", "4.4x", "0.66x")
    assert table.rows[2] == ("dense, flexgroup", "", "98.80", "", "0.0610", "1.5x", "6.8x", "1.0x")
    assert table.rows[3] == ("4x1 aligned", "80.0", "98.60", "\u22120.20", "0.0290", "3.2x", "14x", "2.1x")
    assert len(table.rows) == 3 + len(report.runs)


def test_the_row_of_the_headline_is_marked(report: Report) -> None:
    head = headline(report)
    assert head is not None
    (marked,) = result_table(report, head.run).marked
    assert result_table(report).rows[marked][:2] == ("4x1 unaligned rows", "95.0")


def test_runs_that_were_not_timed_have_empty_cells(report: Report) -> None:
    untimed = replace(report, runs=tuple(replace(run, latency={}) for run in report.runs))
    assert result_table(untimed).rows[3][4:] == ("", "", "", "")


def test_markdown_has_the_same_cells(report: Report) -> None:
    table = result_table(report)
    lines = markdown(table).splitlines()
    assert lines[1] == "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    cells = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in (lines[0], *lines[2:])]
    assert cells == [table.columns, *table.rows]


def test_a_bar_in_a_cell_does_not_break_markdown(report: Report) -> None:
    odd = replace(report, runs=(replace(report.runs[0], pattern="a|b"),))
    assert "| a\\|b |" in markdown(result_table(odd))


def test_the_terminal_table_fits_80_columns_without_cutting_a_word(report: Report) -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(rich_table(result_table(report)))
    text = console.export_text()
    assert "\u2026" not in text
    for row in result_table(report).rows:
        assert all(cell in text for cell in row)
