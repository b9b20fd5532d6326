"""``flexgroup demo``: the whole path in one command, on data that needs no download."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flexgroup._errors import FlexgroupError
from flexgroup.cli._options import JsonOption
from flexgroup.cli._output import Progress, print_json, stdout_console, working

if TYPE_CHECKING:
    from flexgroup.report import Report

EXTRAS = {"sklearn": "scikit-learn", "matplotlib": "matplotlib", "jinja2": "jinja2"}


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder to make, for the report and the networks.")] = Path("demo"),
    threads: Annotated[int, typer.Option("--threads", help="Threads for the latencies.")] = 1,
    seed: Annotated[int, typer.Option("--seed", help="Seed of all randomness.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="A few seconds' work, with poor networks.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the files of a demo in the folder.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Train, prune, compile and time a small network on handwritten digits, and write a report.

    Takes a minute or two and downloads nothing. DIR/report.html has the plots, DIR/results.json the numbers.

    \b
    Example:
      flexgroup demo --out demo
    """
    check_extras()
    from flexgroup.cli._demo_run import DemoSettings, run_demo, weights_files
    from flexgroup.report import to_json, write_report, write_whole

    settings = DemoSettings(seed=seed, threads=threads)
    progress = Progress(shown=True)
    with working(progress), demo_folder(out, force, weights_files(settings)) as folder:
        report = run_demo(settings.quick() if quick else settings, folder, progress)
        progress.stage("drawing")
        write_whole(folder / "results.json", to_json(report))
        write_report(report, folder / "report.html")
    if as_json:
        print_json(json.loads(to_json(report)))
    else:
        _print(report, out)


def check_extras() -> None:
    """Raise `FlexgroupError` if a package that only the demo needs is missing, before any work is done."""
    missing = [name for module, name in EXTRAS.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise FlexgroupError(f"the demo needs {', '.join(missing)}: pip install 'flexgroup[demo]'")


@contextlib.contextmanager
def demo_folder(out: Path, force: bool, owned: Collection[str] = ()) -> Iterator[Path]:
    """A temporary folder beside ``out`` whose files appear in ``out`` at the end, or not at all.

    With ``force`` they replace those of the same names, and files of an earlier demo (``owned``) go; other files
    in ``out`` are left alone. Raises `FlexgroupError` if ``out`` exists without ``force``, is not a folder, or
    cannot be made.
    """
    out = out.absolute()
    if out.exists() and not out.is_dir():
        raise FlexgroupError(f"--out {out} is a file; name a folder")
    if out.exists() and not force:
        raise FlexgroupError(f"--out {out} exists; give --force to replace the demo in it, or name another folder")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise FlexgroupError(f"--out {out} cannot be made: {error.strerror}; name another folder") from error
    try:
        yield folder
        out.mkdir(exist_ok=True)
        written = sorted(file.name for file in folder.iterdir())
        for name in written:
            os.replace(folder / name, out / name)
        for name in set(owned) - set(written):
            (out / name).unlink(missing_ok=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _print(report: Report, out: Path) -> None:
    from flexgroup.report import headline, result_table, rich_table

    head = headline(report)
    console = stdout_console()
    console.print(rich_table(result_table(report, head.run if head else None)))
    if head:
        console.print(head.sentence[0].upper() + head.sentence[1:], style="bold", highlight=False)
        console.print(head.details, highlight=False, soft_wrap=True)
    console.print(f"The report with plots: {out / 'report.html'}", highlight=False, soft_wrap=True)
