"""Tables, plots and the page about the experiment, all made of the runs' JSON files.

python experiments/_cifar10_report.py --results results/cifar10 --page docs/results.md
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from _cifar10_plots import latency_plot, shapes_plot, sparsity_plot
from _cifar10_results import Result, main_budget, measure_of, read_results, recipes_of, shapes_of
from _cifar10_tables import all_tables, findings, not_run, timing

from flexgroup import FlexgroupError
from flexgroup.report import write_whole

BEGIN, END = (
    "<!-- made by experiments/_cifar10_report.py: begin -->",
    "<!-- made by experiments/_cifar10_report.py: end -->",
)
FEATURED = 0.95
COMMANDS = 4


def write_report(folder: Path, page: Path | None = None, planned: Sequence[str] = ()) -> list[Path]:
    """Make everything of ``folder/runs/*.json`` and ``folder/latency.json``; return the files written.

    ``folder`` gets ``table.md`` and, where there are runs for them, ``error-sparsity.png``, ``error-latency.png`` and
    ``error-shapes.png`` of the training with the most runs, and of each other training with its name added.
    ``page`` gets the same between two markers; where it does not exist it is made, and text outside the markers stays.
    ``planned``: names of all runs, to list those that are not there. Raises `FlexgroupError`, before anything is
    written, for results that cannot be read, and for a page that has only one of the markers.
    """
    results = read_results(folder)
    before = (
        page.read_text(encoding="utf-8") if page is not None and page.exists() else f"# Results\n\n{BEGIN}\n{END}\n"
    )
    if before.count(BEGIN) != 1 or before.count(END) != 1 or before.index(BEGIN) > before.index(END):
        raise FlexgroupError(f"page {page}: it needs one line {BEGIN!r} and below it one line {END!r}; add them")
    contents: dict[Path, str | bytes] = {
        folder / "table.md": f"# ResNet-20 on CIFAR-10\n\n{all_tables(results, planned)}"
    }
    pictures: dict[Path, str] = {}
    for number, recipe in enumerate(recipes_of(results)):
        suffix = "" if number == 0 else f"-{_file_name(recipe)}"
        for name, title, picture in _pictures(results, recipe):
            path = folder / f"error-{name}{suffix}.png"
            contents[path] = picture
            pictures[path] = f"{title}; training: {recipe}"
    if page is not None:
        text = _page(results, planned, pictures, folder, page)
        start, stop = before.index(BEGIN) + len(BEGIN), before.index(END)
        contents[page] = f"{before[:start]}\n\n{text}\n{before[stop:]}"
    for path, content in contents.items():
        write_whole(path, content)
    return list(contents)


def _pictures(results: Sequence[Result], recipe: str) -> list[tuple[str, str, bytes]]:
    measure = measure_of(results)
    budget = main_budget(results, recipe)
    runs = [one for one in results if one.recipe == recipe and one.budget == budget and measure in one.accuracy]
    grouped = [one for one in runs if one.groups in shapes_of(runs)]
    made = []
    if any(one.sparsity == FEATURED for one in grouped):
        title = f"All group shapes at {100 * FEATURED:g} %"
        made.append(("shapes", title, shapes_plot(results, recipe, FEATURED)))
    if len({one.sparsity for one in grouped}) > 1:  # one is no line to draw
        made.append(("sparsity", "Error against sparsity", sparsity_plot(results, recipe)))
    if any(one.ms is not None for one in grouped):
        made.append(("latency", "Error against measured latency", latency_plot(results, recipe)))
    return made


def _page(
    results: Sequence[Result], planned: Sequence[str], pictures: dict[Path, str], folder: Path, page: Path
) -> str:
    def link(path: Path) -> str:
        return Path(os.path.relpath(path, page.parent)).as_posix()

    parts = ["## ResNet-20 on CIFAR-10: aligned and unaligned groups\n"]
    for recipe in recipes_of(results):
        said = findings(results, recipe)
        if said:
            parts.append(f"With the training *{recipe}*:\n\n" + "\n".join(f"- {one}" for one in said) + "\n")
    parts += [f"![{title}]({link(path)})\n" for path, title in pictures.items()]
    parts.append(
        f"All numbers: [table.md]({link(folder / 'table.md')}); one file a run: [runs]({link(folder / 'runs')}).\n"
    )
    times = timing(results)
    if times:
        parts.append(f"{times}\n")
    machines = sorted({one.machine for one in results if one.machine})
    if machines:
        parts.append(f"Trained on: {'; '.join(machines)}.\n")
    commands = sorted({one.command for one in results if one.command})
    if commands:
        more = f"\n# and {len(commands) - COMMANDS} more, in the runs' files" if len(commands) > COMMANDS else ""
        parts.append("```sh\n" + "\n".join(commands[:COMMANDS]) + more + "\n```\n")
    missing = len(not_run(results, planned))
    if missing:
        parts.append(
            f"{missing} of {len({*planned, *(one.name for one in results)})} planned runs are not there yet.\n"
        )
    return "\n".join(parts)


def _file_name(recipe: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in recipe.lower()).strip("-")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results/cifar10"))
    parser.add_argument("--page", type=Path, help="a Markdown page to bring up to date, for example docs/results.md")
    options = parser.parse_args()
    try:
        for path in write_report(options.results, options.page):
            print(path)
    except FlexgroupError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
