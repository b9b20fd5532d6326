"""The command line and the results of benchmarks that go through pruned networks one by one."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flexgroup.report import this_machine, write_whole


def network_options(text: str, *, models: str, threads: int, rounds: int) -> argparse.Namespace:
    """``models``, ``sparsity``, ``threads``, ``rounds`` and ``out``: what the command line says, or the defaults."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=models)
    parser.add_argument("--sparsity", type=float, default=0.95)
    parser.add_argument("--threads", type=int, default=threads)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--out", type=Path, help="write the results to this JSON file")
    return parser.parse_args()


def write_rows(path: Path | None, rows: Sequence[Any]) -> None:
    """Write the rows with this machine's class, if there is a file to write to."""
    if path is not None:
        write_whole(path, json.dumps({"machine": asdict(this_machine()), "rows": rows}, indent=1) + "\n")
