"""The package as a whole: quick to import, one-way imports, examples that run."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def python(code: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-W", "error", "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_flexgroup_loads_nothing_heavy():
    code = "import flexgroup, sys; print([m for m in ('torch', 'numba', 'numpy', 'llvmlite') if m in sys.modules])"
    assert python(code).strip() == "[]"


def test_no_room_imports_a_trainer():
    rooms = "cli, deploy, engine, gpu, graph, groups, integrations, kernels, pruning, report, zoo"
    found = f"from flexgroup import {rooms}; import flexgroup, sys; [getattr(flexgroup, n) for n in flexgroup.__all__]"
    code = f"{found}; print([m for m in ('transformers', 'lightning', 'accelerate') if m in sys.modules])"
    assert python(code).strip() == "[]"


@pytest.mark.parametrize("room", ["groups", "kernels"])
def test_selection_and_kernels_know_nothing_of_torch(room):
    assert python(f"import flexgroup.{room}, sys; print('torch' in sys.modules)").strip() == "False"


def test_every_public_name_can_be_loaded():
    import flexgroup

    assert all(getattr(flexgroup, name) is not None for name in flexgroup.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = flexgroup.nothing


@pytest.mark.skipif(importlib.util.find_spec("sklearn") is None, reason="the example needs flexgroup[demo]")
def test_the_example_runs():
    command = [sys.executable, str(ROOT / "examples" / "own_loop.py"), "--epochs", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "90.0% of the targeted weights are zero" in done.stdout
    assert "conv_f32_ring_4x1" in done.stdout
