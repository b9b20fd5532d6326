"""Where a command's words go: results to stdout, progress and remarks to stderr."""

from __future__ import annotations

import contextlib
import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from flexgroup._errors import FlexgroupError

MIN_WIDTH = 100


class Progress:
    """Shows on stderr what a command is doing; ``shown=False`` shows nothing, for use as a library.

    On a terminal, the stage in work has a line of its own with a bar. Elsewhere only `line` leaves a trace.
    """

    def __init__(self, shown: bool = False) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Bar(*columns, console=Console(stderr=True, quiet=not shown), transient=True)
        self._task = self._bar.add_task("", total=None, visible=False)

    def __enter__(self) -> Progress:
        if self._bar.console.is_terminal:  # elsewhere, the bar would leave empty lines
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar.console.is_terminal:
            self._bar.stop()

    def stage(self, text: str) -> None:
        """Begin something of unknown length."""
        self._bar.reset(self._task, total=None, description=text, visible=True)

    def step(self, done: int, total: int) -> None:
        """So much of the stage is done."""
        self._bar.update(self._task, completed=done, total=total)

    def line(self, text: str) -> None:
        """Say something that stays on the screen."""
        self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def writing(option: str, path: Path) -> Iterator[None]:
    """While a command writes the file of an option: what the system refuses is a `FlexgroupError` that names both."""
    try:
        yield
    except OSError as error:
        raise FlexgroupError(f"{option} {path} cannot be written: {error.strerror}; name another file") from error


@contextlib.contextmanager
def working(progress: Progress, noted: list[str] | None = None) -> Iterator[None]:
    """While a command works: stdout is kept for its result, and warnings become lines of ``progress``.

    Whatever else writes to stdout (a user's module, an exporter) is sent to stderr. Warnings meant for users
    are collected in ``noted`` too.
    """

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        if issubclass(category, UserWarning):
            progress.line(f"warning: {message}")
            if noted is not None:
                noted.append(str(message))

    with progress, contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.showwarning = show
        yield


def print_json(document: object) -> None:
    """Write the one JSON document of a command's ``--json``."""
    print(json.dumps(document, indent=2, allow_nan=False))


def stdout_console() -> Console:
    """Where tables are printed; as wide as they need where stdout is not a terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=max(MIN_WIDTH, console.width))
