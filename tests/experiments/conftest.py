"""The experiments are scripts, whose folder is on the path when they run; the made-up runs must be found by name."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
sys.path += [str(HERE.parents[1] / "experiments"), str(HERE)]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[list[dict[str, Any]]], Path]:
    """``write(runs)`` -> the folder ``results`` with a file for each in ``results/runs``, and one of their times."""

    def put(runs: list[dict[str, Any]]) -> Path:
        folder = tmp_path / "results" / "runs"
        folder.mkdir(parents=True, exist_ok=True)
        times = {run["name"]: run["times"] for run in runs if run["times"]}
        latency = {"schema": 1, "networks": times}
        (folder.parent / "latency.json").write_text(json.dumps(latency), encoding="utf-8")
        for run in runs:
            (folder / f"{run['name']}.json").write_text(json.dumps(run), encoding="utf-8")
        return folder.parent

    return put
