"""The command line: which commands there are, and how their errors leave the program."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from flexgroup import __version__
from flexgroup._errors import FlexgroupError
from flexgroup.cli._bench import bench
from flexgroup.cli._demo import demo
from flexgroup.cli._eval import evaluate
from flexgroup.cli._export import export
from flexgroup.cli._inspect import inspect
from flexgroup.cli._profile import profile
from flexgroup.cli._prune import prune
from flexgroup.cli._select import select

WRONG_INPUT = 2
INTERRUPTED = 130

# Typer brings its own copy of click or uses the installed one, by version: only the ancestry tells which.
USAGE_ERROR: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (``sys.argv`` by default) and return the exit status.

    0: done. 2: the input was wrong, and stderr has one line that says why. 130: stopped by the user. Any
    other exception is a defect of the program and passes through with its traceback.
    """
    try:
        status = _app()(args=arguments, prog_name="flexgroup", standalone_mode=False)
    except FlexgroupError as error:
        return _refuse(str(error))
    except USAGE_ERROR as error:
        return _refuse(error.format_message())  # type: ignore[attr-defined]
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    if status == INTERRUPTED:
        print("flexgroup: stopped", file=sys.stderr)
    return status if isinstance(status, int) else 0


def _app() -> typer.Typer:
    app = typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True)(_flexgroup)
    app.command("demo")(demo)
    app.command("select")(select)
    app.command("prune")(prune)
    app.command("eval")(evaluate)
    app.command("bench")(bench)
    app.command("profile")(profile)
    app.command("inspect")(inspect)
    app.command("export")(export)
    return app


def _flexgroup(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Prune PyTorch networks in flexible groups, and compile what is left into fast native code.

    \b
    Begin with:
      flexgroup demo
    """
    if version:
        print(f"flexgroup {__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())


def _refuse(reason: str) -> int:
    print(f"flexgroup: {reason}", file=sys.stderr)
    return WRONG_INPUT
