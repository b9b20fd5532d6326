"""The output folder: it appears complete, or what was there before stays."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from flexgroup._errors import FlexgroupError


def check_folder(out: Path, force: bool) -> Path:
    """The absolute path of ``out``; raises `FlexgroupError` if files cannot be written there, or only by force."""
    out = out.resolve()
    if out.exists() and not out.is_dir():
        raise FlexgroupError(f"output folder {out} is a file; name a folder")
    if out.is_dir() and any(out.iterdir()) and not force:
        raise FlexgroupError(
            f"output folder {out} is not empty; name another folder, or write into it with force=True (--force)"
        )
    return out


def write_files(out: Path, files: Mapping[str, bytes], force: bool) -> None:
    """Write ``files`` (name to content) into ``out``; other files that are there stay.

    All are written to a folder beside ``out`` first. That becomes ``out`` in one step; where ``out`` exists, each file
    moves into it in one step. Raises `FlexgroupError` as `check_folder` does, and where the disk refuses.
    """
    out = check_folder(out, force)
    partial = out.with_name(f"{out.name}.partial-{os.getpid()}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
    except OSError as error:
        raise FlexgroupError(f"output folder {out} cannot be made: {error.strerror}; name another folder") from error
    try:
        for name, content in files.items():
            (partial / name).write_bytes(content)
        if out.exists():
            for name in files:
                os.replace(partial / name, out / name)
        else:
            os.rename(partial, out)
    except OSError as error:
        raise FlexgroupError(f"output folder {out} cannot be written: {error.strerror}; name another folder") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
