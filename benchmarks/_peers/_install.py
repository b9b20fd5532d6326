"""Virtual environments for the engines whose packages do not go together with ours, or with each other's."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from _peers._engine import Environment
from _peers._process import WorkerError


def python_of(environment: Environment | None, cache: Path) -> Path:
    """The interpreter of an environment, which is made first if it is not there, or was made by another recipe.

    Raises `WorkerError` where it cannot be installed, once and for as long as the recipe stays the same.
    """
    if environment is None:
        return Path(sys.executable)
    folder = cache / "envs" / environment.name
    recipe = folder / "recipe.json"
    wanted = json.dumps([list(install) for install in environment.installs])
    python = folder / "bin" / "python"
    if not (recipe.exists() and recipe.read_text() == wanted):
        _make(environment, folder)
        recipe.write_text(wanted)
    return python


def _make(environment: Environment, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _run([str(_base_python(environment)), "-m", "venv", str(folder)])
    for arguments in environment.installs:
        _run([str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", *arguments])


def _base_python(environment: Environment) -> Path:
    newest = environment.newest_python
    if newest is None or sys.version_info[:2] <= (3, newest):
        return Path(sys.executable)
    for minor in range(newest, 9, -1):
        found = shutil.which(f"python3.{minor}")
        if found and subprocess.run([found, "-c", ""], capture_output=True, check=False).returncode == 0:
            return Path(found)
    raise WorkerError(f"needs Python 3.{newest} or older, which is not installed")


def _run(command: list[str]) -> None:
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "ERROR" in line] or done.stderr.splitlines()[-1:]
        raise WorkerError(f"does not install: {' '.join(lines)[:300]}")
