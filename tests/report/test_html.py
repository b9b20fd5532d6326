"""The page: complete in itself, and honest about where its numbers come from."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from flexgroup import FlexgroupError
from flexgroup.report import Report, Run, render, write_report, write_whole

VOID = {"meta", "br", "hr", "img", "link", "input", "path", "use", "rect", "circle"}


class _Balance(HTMLParser):
    """Collects the open elements and the words outside of style."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attributes: object) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)


@pytest.fixture(scope="module")
def page(report: Report) -> str:
    return render(report)


def words(page: str) -> str:
    parser = _Balance()
    parser.feed(page)
    assert parser.open == []
    return " ".join(" ".join(parser.words).split())


def test_the_page_asks_nothing_of_the_network(page: str) -> None:
    assert not re.search(r"https?://|//[a-z]|<script|<link|<img|<iframe|@import|url\((?!#)", page)


def test_headline_table_plots_method_and_explanation_come_in_this_order(page: str) -> None:
    text = words(page)
    order = [
        "5.4x faster than ONNX Runtime at \u22120.80 points of accuracy",
        "All results",
        "Accuracy against sparsity",
        "Latency against sparsity",
        "Time in each layer",
        "Which weights survive",
        "How good the choice is",
        "What aligned and unaligned mean",
        "How it was measured",
    ]
    places = [text.index(heading) for heading in order]
    assert places == sorted(places)


def test_every_figure_comes_with_what_it_was_measured_on(report: Report, page: str) -> None:
    text = words(page)
    for fact in (report.machine.cpu, "2 cores available", "torch 2.13.0", report.data, *report.method, *report.notes):
        assert fact in text
    assert "One image is 0.20 points" in text


def test_captions_say_how_many_groups_leave_the_grid(page: str) -> None:
    text = words(page)
    assert re.search(r"All \d+ groups start on the dashed grid", text)
    assert re.search(r"\d+ of \d+ groups, the dark ones, start off the grid", text)


def test_words_from_outside_are_escaped(report: Report) -> None:
    page = render(replace(report, title="<b>a & b</b>", notes=("<script>alert(1)</script>",)))
    assert "&lt;b&gt;a &amp; b&lt;/b&gt;" in page
    assert "<script" not in page


def test_a_pattern_with_markup_does_not_break_the_pictures(report: Report) -> None:
    odd = tuple(replace(run, pattern='<"&>') for run in report.runs[:3])
    words(render(replace(report, runs=odd, featured='<"&>')))


def test_a_page_without_runs_profiles_or_masks_still_stands(report: Report) -> None:
    text = words(render(replace(report, runs=(), profiles=(), masks=())))
    assert "All results" in text
    assert "Which weights survive" not in text
    assert "faster than" not in text.split("How it was measured")[0].split("All results")[0]


def test_runs_without_latency_leave_the_headline_out(report: Report) -> None:
    runs = (Run("4x1 aligned", 0.9, 0.9, 98.0),)
    text = words(render(replace(report, runs=runs, dense=replace(report.dense, latency={}), profiles=(), masks=())))
    assert "Accuracy against sparsity" in text


def test_the_file_is_whole_and_nothing_else_is_left(report: Report, tmp_path: Path) -> None:
    write_report(report, tmp_path / "report.html")
    assert os.listdir(tmp_path) == ["report.html"]
    assert (tmp_path / "report.html").read_text("utf-8").rstrip().endswith("</html>")


def test_an_impossible_path_is_one_clear_line(report: Report, tmp_path: Path) -> None:
    with pytest.raises(FlexgroupError, match=r"cannot write the report to .*nowhere.*choose another"):
        write_report(report, tmp_path / "nowhere" / "report.html")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "file"
    write_whole(target, "old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_whole(target, "new")
    assert os.listdir(tmp_path) == ["file"]
    assert target.read_text() == "old"


def test_without_jinja2_the_error_says_what_to_install(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(FlexgroupError, match=r"jinja2: pip install 'flexgroup\[demo\]'"):
        render(report)
