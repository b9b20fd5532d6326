"""The report as one self-contained page: no script, and nothing fetched from anywhere."""

from __future__ import annotations

import importlib.resources
from dataclasses import dataclass
from pathlib import Path

from flexgroup._errors import FlexgroupError
from flexgroup.report._files import write_whole
from flexgroup.report._headline import engine_name, headline
from flexgroup.report._pictures import groups_in, layers_plot, mask_plot
from flexgroup.report._plots import (
    accuracy_plot,
    latency_plot,
    magnitude_plot,
    one_shot_plot,
    tradeoff_plot,
)
from flexgroup.report._results import MaskPicture, Report
from flexgroup.report._style import COLOURS
from flexgroup.report._tables import result_table


@dataclass(frozen=True)
class Picture:
    """A plot with its caption; ``svg`` is an element to stand in the page."""

    svg: str
    title: str
    caption: str


def write_report(report: Report, path: Path) -> None:
    """Write the page to ``path``, whole or not at all.

    Raises `FlexgroupError` if matplotlib or jinja2 is not installed, or if ``path`` cannot be written.
    """
    page = render(report)
    try:
        write_whole(path, page)
    except OSError as error:
        raise FlexgroupError(f"cannot write the report to {path}: {error.strerror}; choose another") from error


def render(report: Report) -> str:
    """The page as text."""
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError as error:
        raise FlexgroupError("the HTML report needs jinja2: pip install 'flexgroup[demo]'") from error
    template = importlib.resources.files("flexgroup.report").joinpath("template.html.j2")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    head = headline(report)
    return environment.from_string(template.read_text("utf-8")).render(
        report=report,
        headline=head,
        table=result_table(report, head.run if head else None),
        plots=_results(report),
        choices=_choices(report),
        masks=_masks(report),
        one_image=100 / report.test_images,
    )


def _results(report: Report) -> list[Picture]:
    """What the runs cost and gain; without runs or profiles, the pictures that need them are left out."""
    pictures = []
    if report.runs:
        one_image = 100 / report.test_images
        pictures = [
            Picture(
                accuracy_plot(report),
                "Accuracy against sparsity",
                f"Share of the {report.test_images} test images classified correctly. One image is "
                f"{one_image:.2f} points; the grey band is where the dense network may really lie (95 % interval).",
            ),
            Picture(
                latency_plot(report),
                "Latency against sparsity",
                "Median time of one image. Dashed: the dense network in each engine. " + _speedup_caption(report),
            ),
            Picture(
                tradeoff_plot(report),
                "Accuracy against latency",
                "Up and to the left is better. Crosses: the dense network in each engine.",
            ),
        ]
    if report.profiles:
        pictures.append(
            Picture(
                layers_plot(report.profiles),
                "Time in each layer",
                "The dense and the pruned network, both compiled by flexgroup, layer by layer.",
            )
        )
    return pictures


def _choices(report: Report) -> list[Picture]:
    """How good the choice of weights was, before training had a chance to make up for it."""
    pictures = []
    if any(run.magnitude_kept is not None for run in report.runs):
        pictures.append(
            Picture(
                magnitude_plot(report),
                "Magnitude kept",
                "What is left of the sum of all |weights| of the pruned layers. Every choice is the best there "
                "is for its pattern, so a bar shows what the pattern itself permits.",
            )
        )
    if any(run.one_shot_accuracy is not None for run in report.runs):
        pictures.append(
            Picture(
                one_shot_plot(report),
                "Accuracy right after pruning",
                "Before any fine-tuning, with batch-norm statistics measured again.",
            )
        )
    return pictures


def _speedup_caption(report: Report) -> str:
    if not (report.references and report.featured in report.patterns):
        return ""
    return f"Numbers: how many times faster than {engine_name(report.references[0], report)}."


def _masks(report: Report) -> list[Picture]:
    colours = {pattern: COLOURS[i % len(COLOURS)] for i, pattern in enumerate(report.patterns)}
    return [
        Picture(mask_plot(mask, colours.get(mask.pattern, COLOURS[1])), mask.pattern, _mask_caption(mask))
        for mask in report.masks
    ]


def _mask_caption(mask: MaskPicture) -> str:
    if mask.group_rows == 1:
        return "Every weight for itself: the most freedom, and the least regular work for a processor."
    groups = groups_in(mask)
    off = sum(top % mask.group_rows != 0 for top, _, _ in groups)
    if off == 0:
        return f"All {len(groups)} groups start on the dashed grid."
    return f"{off} of {len(groups)} groups, the dark ones, start off the grid, where aligned groups cannot."
