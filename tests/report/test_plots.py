"""The pictures are valid SVG that can stand inside a page."""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexgroup import FlexgroupError
from flexgroup.report import LayerTime, MaskPicture, Profile, Report
from flexgroup.report._pictures import groups_in, layers_plot, mask_plot
from flexgroup.report._plots import (
    accuracy_plot,
    chance_interval,
    latency_plot,
    magnitude_plot,
    one_shot_plot,
    tradeoff_plot,
)

PLOTS: dict[str, Callable[[Report], str]] = {
    "accuracy": accuracy_plot,
    "latency": latency_plot,
    "magnitude": magnitude_plot,
    "one shot": one_shot_plot,
    "tradeoff": tradeoff_plot,
    "layers": lambda report: layers_plot(report.profiles),
    "mask": lambda report: mask_plot(report.masks[1], "#0072b2"),
}


@pytest.mark.parametrize("plot", PLOTS.values(), ids=PLOTS)
def test_a_plot_is_one_accessible_svg_element(plot: Callable[[Report], str], report: Report) -> None:
    svg = plot(report)
    root = ET.fromstring(svg.replace("xlink:href", "href"))
    assert root.tag == "svg"
    assert root.get("role") == "img"
    assert root.get("aria-label")
    assert root.get("viewBox")
    assert root.get("width") is None, "the page decides how wide it is"


@pytest.mark.parametrize("plot", PLOTS.values(), ids=PLOTS)
def test_a_plot_fetches_nothing_and_names_no_tool(plot: Callable[[Report], str], report: Report) -> None:
    svg = plot(report)
    assert not re.search(r"https?://|<script|<metadata|<image|<!DOCTYPE", svg)


def test_the_same_report_gives_the_same_picture(report: Report) -> None:
    assert accuracy_plot(report) == accuracy_plot(report)


def test_ids_of_two_pictures_never_meet(report: Report) -> None:
    ids = [set(re.findall(r'\bid="([^"]+)"', plot(report))) for plot in PLOTS.values()]
    assert sum(map(len, ids)) == len(set().union(*ids))
    svg = accuracy_plot(report)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg))
    assert used
    assert used <= set(re.findall(r'\bid="([^"]+)"', svg))


def test_one_sparsity_and_one_pattern_are_enough(report: Report) -> None:
    small = replace(report, runs=report.runs[3:4])
    for plot in (accuracy_plot, latency_plot, magnitude_plot, one_shot_plot, tradeoff_plot):
        assert plot(small).startswith("<svg")


def test_layers_that_never_matter_share_one_bar() -> None:
    rows = [LayerTime(f"layer{i}", "dense", 1.0, 0.033) for i in range(30)]
    tiny = [LayerTime(f"tiny{i}/phase{i}", "copy", 0.001, 0.0001) for i in range(5)]
    label = re.search('aria-label="([^"]*)"', layers_plot([Profile("dense", (*rows, *tiny))]))
    assert label
    assert label[1] == "Time in each layer: dense"


def test_an_aligned_mask_is_cut_into_groups_on_the_grid(report: Report) -> None:
    groups = groups_in(report.masks[0])
    assert groups
    assert all(top % 4 == 0 and rows == 4 for top, _, rows in groups)


def test_an_unaligned_mask_has_groups_off_the_grid(report: Report) -> None:
    assert any(top % 4 for top, _, _ in groups_in(report.masks[1]))


@given(st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_groups_cover_exactly_what_is_kept(rows: int, seed: int) -> None:
    kept = np.random.default_rng(seed).random((9, 5)) < 0.4
    text = tuple("".join("#" if weight else "." for weight in line) for line in kept)
    painted = np.zeros_like(kept)
    for top, column, height in groups_in(MaskPicture("any", "layer", (9, 5), rows, 0, text)):
        assert height <= rows
        assert not painted[top : top + height, column].any()
        painted[top : top + height, column] = True
    assert (painted == kept).all()


def test_chance_is_wide_for_few_images_and_narrow_for_many() -> None:
    assert chance_interval(50.0, 100) == pytest.approx((40.4, 59.6), abs=0.1)
    assert chance_interval(100.0, 500) == pytest.approx((99.24, 100.0), abs=0.01)
    low, high = chance_interval(91.73, 10_000)
    assert high - low == pytest.approx(1.08, abs=0.01)


def test_without_matplotlib_the_error_says_what_to_install(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(FlexgroupError, match=r"matplotlib: pip install 'flexgroup\[demo\]'"):
        accuracy_plot(report)
