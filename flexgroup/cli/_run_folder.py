"""The folder of a run: complete under its own name, or kept under another that says it is not."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from flexgroup._errors import FlexgroupError

FILES = ("metrics.jsonl", "model.safetensors", "run.json")
CONFIG = "config.json"  # what an unfinished run is, for whoever resumes it
CHECKPOINTS = "checkpoints"
LATENCY = "latency.json"  # the budget in time of an unfinished run, likewise
TRACKED = "tensorboard"


def check_free(out: Path, force: bool) -> Path:
    """The absolute path of ``out``, where a run may be written.

    Raises `FlexgroupError` if it exists and ``force`` is not set; or if it is not the folder of a run,
    because then it would not be ours to replace.
    """
    out = out.resolve()
    if not out.exists():
        return out
    if not out.is_dir():
        raise FlexgroupError(f"--out {out} is a file; name a folder")
    if not force:
        raise FlexgroupError(f"--out {out} exists; give --force to replace it, or name another folder")
    foreign = sorted(
        entry.name for entry in out.iterdir() if entry.name not in (*FILES, CONFIG, LATENCY, CHECKPOINTS, TRACKED)
    )
    if foreign:
        raise FlexgroupError(
            f"--out {out} holds {foreign[0]!r}, which is not part of a run; it is not replaced: name another folder"
        )
    return out


def unfinished(out: Path) -> Path | None:
    """The newest folder of a run into ``out`` that did not finish; None if there is none."""
    found = [folder for folder in out.parent.glob(f"{out.name}.partial*") if (folder / CONFIG).is_file()]
    return max(found, key=lambda folder: (len(folder.name), folder.name), default=None)


@contextlib.contextmanager
def run_folder(out: Path, force: bool, partial: Path | None = None) -> Iterator[Path]:
    """A new folder beside ``out`` to write into, or ``partial`` to go on in, renamed to ``out`` at the end.

    If the run fails or is stopped, what it has written stays in that folder, and stderr says where; ``out``
    is as before. Raises `FlexgroupError` where the folder cannot be made, and as `check_free`.
    """
    out = check_free(out, force)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = partial or _new_sibling(out, "partial")
    except OSError as error:
        raise FlexgroupError(f"--out {out} cannot be made: {error.strerror}; name another folder") from error
    try:
        yield partial
        check_free(out, force)
        _replace(out, partial)
    except BaseException:
        if partial.is_dir() and any(partial.iterdir()):
            print(f"flexgroup: the run did not finish; what there is of it is in {partial}", file=sys.stderr)
        else:
            shutil.rmtree(partial, ignore_errors=True)
        raise


def _new_sibling(out: Path, word: str) -> Path:
    for number in itertools.count(1):
        folder = out.with_name(f"{out.name}.{word}" + (f"-{number}" if number > 1 else ""))
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise AssertionError("there is always a next number")


def _replace(out: Path, partial: Path) -> None:
    if not out.exists():
        os.rename(partial, out)
        return
    old = _new_sibling(out, "old")
    os.rename(out, old)
    os.rename(partial, out)
    shutil.rmtree(old)
