"""The benchmarks are scripts, whose folder is on the path when they run; the toy engines must be found by name."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path += [str(HERE.parents[1] / "benchmarks"), str(HERE)]
