"""The examples for other libraries' trainers run."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.mark.skipif(importlib.util.find_spec("sklearn") is None, reason="the examples need flexgroup[demo]")
@pytest.mark.parametrize(
    ("name", "library", "sparsity"),
    [("huggingface_trainer", "transformers", 80), ("lightning_trainer", "lightning", 90)],
)
def test_the_example_runs(name: str, library: str, sparsity: int) -> None:
    pytest.importorskip(library, reason=f"the example needs flexgroup[{library}]")
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), "--epochs", "1"]
    quietly = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=quietly)
    assert done.returncode == 0, done.stderr
    assert f"{sparsity}.0% of the targeted weights are zero" in done.stdout
