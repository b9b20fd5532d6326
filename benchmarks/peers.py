"""Our compiled networks beside the engines that one would pick instead: one run, interleaved, batch 1.

    python benchmarks/peers.py [--networks resnet20,mobilenet_v1] [--sparsities 0,0.9] [--threads 1,2]
        [--peers onnxruntime,mnn-sparse] [--starts 1] [--rounds 7] [--out results/peers.json]

Weights and groups are random: 4x1 groups (--rows 1: single weights) in every convolution but the first and the
depthwise ones. Every engine gets the same weights; those that gain nothing from zeros run the dense network. The first
run makes a virtual environment for each engine that needs one and converts the networks, under --cache; later runs use
what is there. More: docs/peers.md.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any

from _peers._cases import ROWS, Case, make_case
from _peers._engine import Engine
from _peers._others import FAR, QUIET
from _peers._registry import OURS, PEERS
from _peers._rounds import Cell, Outcome, Plan, cells_of, measure
from _peers._tables import Failure, Row, show_network, show_verdicts, verdicts, wide_console
from rich.console import Console

from flexgroup.report import this_machine, write_whole
from flexgroup.report._timing import summary

ROOT = Path(__file__).parents[1]
NETWORKS = "resnet50,mobilenet_v1,mobilenet_v2,resnet20"


def cases_of(network: str, sparsities: Sequence[float], rows: int, cache: Path) -> list[Case]:
    """Dense and pruned networks, the pruned ones with aligned and with unaligned groups of so many rows."""
    return [
        make_case(network, sparsity, unaligned, cache, rows)
        for sparsity in sparsities
        for unaligned in ((False, True) if sparsity and rows > 1 else (False,))
    ]


def rows_of(outcomes: Mapping[Cell, Outcome]) -> tuple[list[Row], list[Failure]]:
    """What was measured, and what was not."""
    rows, failures = [], []
    for cell, outcome in outcomes.items():
        engine, case = cell.engine, cell.case
        reason = outcome.failure
        if not reason and not isfinite(outcome.difference):
            reason = "its output has another shape, or is not finite"
        if reason:
            failures.append(Failure(case.network, engine.name, case.variant, cell.threads, reason))
            continue
        timing = summary(outcome.samples)
        rows.append(
            Row(
                *(case.network, engine.name, engine.precision, case.sparsity, case.unaligned, cell.threads),
                *(timing.median_ms, timing.p10_ms, timing.p90_ms, timing.calls),
                *(outcome.difference, outcome.difference <= engine.tolerance),
            )
        )
    return rows, failures


def chosen_peers(words: str) -> list[Engine]:
    """The engines that a comma-separated list names."""
    if words == "all":
        return list(PEERS)
    known = {engine.key: engine for engine in PEERS}
    unknown = [word for word in words.split(",") if word not in known]
    if unknown:
        sys.exit(f"unknown peers: {', '.join(unknown)}; choose from {', '.join(known)}")
    return [known[word] for word in words.split(",")]


def machine_with(versions: Mapping[str, str]) -> dict[str, Any]:
    """This machine's class, and the versions of all that was measured."""
    machine = asdict(this_machine())
    machine["versions"] |= versions
    return machine


def tell(console: Console, network: str, line: str) -> None:
    """Say how far the measurement is."""
    console.log(f"{network}: {line}", highlight=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=NETWORKS)
    parser.add_argument("--sparsities", default="0,0.8,0.9,0.95")
    parser.add_argument("--rows", type=int, default=ROWS, help="of a group; 1: single weights")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--peers", default="all", help=f"all, or some of {','.join(engine.key for engine in PEERS)}")
    parser.add_argument("--starts", type=int, default=1, help="how many times all engines are started and loaded")
    parser.add_argument("--rounds", type=int, default=7, help="of every start")
    parser.add_argument("--seconds", type=float, default=0.2, help="length of a turn")
    parser.add_argument(
        "--cache", type=Path, default=ROOT / "build" / "peers", help="environments and converted networks"
    )
    parser.add_argument("--out", type=Path, help="write the results to this JSON file")
    options = parser.parse_args()
    engines = [OURS, *chosen_peers(options.peers)]
    sparsities = [float(word) for word in options.sparsities.split(",")]
    threads = [int(word) for word in options.threads.split(",")]
    progress, console = Console(stderr=True), wide_console()
    judged = partial(verdicts, with_targets=options.rows == ROWS)
    rows: list[Row] = []
    failures: list[Failure] = []
    versions: dict[str, str] = {}
    others: dict[str, float] = {}
    barriers: dict[str, list[float]] = {}
    for network in options.networks.split(","):
        plan = Plan(
            options.cache.resolve(), options.starts, options.rounds, options.seconds, partial(tell, progress, network)
        )
        plan.say("building")
        result = measure(cells_of(engines, cases_of(network, sparsities, options.rows, plan.cache), threads), plan)
        measured, missing = rows_of(result.outcomes)
        rows, failures, versions = rows + measured, failures + missing, versions | result.versions
        others[network] = result.others
        barriers[network] = [round(1e9 * seconds) for seconds in result.barriers]
        show_network(console, network, measured, missing)
        if result.others > QUIET:
            console.print(f"other programs used {result.others:.2f} cores meanwhile: measure again on a quiet machine")
        if max(result.barriers) > FAR:
            console.print(
                f"two threads took {1e9 * max(result.barriers):.0f} ns to wait for each other: their cores were far "
                "apart, or shared no cache, which costs every engine some or most of what a second thread gains"
            )
        if options.out:  # after every network: an interrupted run keeps what it has
            document = {
                "command": shlex.join(["python", "benchmarks/peers.py", *sys.argv[1:]]),
                "machine": machine_with(versions),
                "cores_used_by_other_programs": others,
                "nanoseconds_of_a_barrier_of_two_threads": barriers,
                "options": {engine.name: engine.options for engine in engines},
                "rows": [asdict(row) for row in rows],
                "not_measured": [asdict(failure) for failure in failures],
                "fastest_peer": [asdict(verdict) | {"met": verdict.met} for verdict in judged(rows)],
            }
            write_whole(options.out, json.dumps(document, indent=1) + "\n")
    show_verdicts(console, judged(rows))


if __name__ == "__main__":
    main()
