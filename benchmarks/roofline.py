"""How much of the machine's limits the networks of `peers.py` reach.

    python benchmarks/roofline.py [--peers results/peers_avx2.json] [--out results/roofline_avx2.json]
    python benchmarks/roofline.py --peers results/peers_avx2.json --rates rates.json   # of another machine

Nothing is timed: milliseconds are those of a run of `peers.py`. Beside them stand two bounds. *FMA* is the time of all
multiply-adds that our plan executes, at the machine's peak. *Roofline* is that of its kernel calls one by one, each at
the peak or at the bandwidth of the level of memory that holds what it reads and writes, whichever takes longer
(Williams, Waterman and Patterson, 2009). Peak and bandwidths are measured first, several times, and the best of each
counts; with --rates they are read from a file, as `flexgroup profile --json` has them. *Most* is how many times as fast
as the fastest fp32 peer an engine at the roofline is.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
MEASUREMENTS = 5


def best_of(machines: list[Any]) -> Any:
    """The highest rate of every kind."""
    levels = [
        replace(
            same[0],
            bandwidth=max(level.bandwidth for level in same),
            bandwidth_all=max(level.bandwidth_all for level in same),
        )
        for same in zip(*(machine.levels for machine in machines), strict=True)
    ]
    peak, peak_all = (max(getattr(machine, name) for machine in machines) for name in ("peak", "peak_all"))
    return replace(machines[0], peak=peak, peak_all=peak_all, levels=tuple(levels))


def machine_at_hand() -> Any:
    from flexgroup.engine._machine import cache_sizes, measure_machine, usable_cores
    from flexgroup.kernels import host_target

    facts = host_target(), usable_cores(), cache_sizes()
    return best_of([measure_machine(*facts) for _ in range(MEASUREMENTS)])


def machine_of(path: Path) -> Any:
    from flexgroup.engine._machine import Level, Machine

    facts = json.loads(path.read_text())["rates"]
    return Machine(**facts | {"levels": tuple(Level(**level) for level in facts["levels"])})


def target_of(machine: Any) -> Any:
    """Of the machine's vectors and caches."""
    from flexgroup.kernels import host_target, target_named

    if machine.target == host_target().name:
        return host_target()
    sizes = {level.name: level.size for level in machine.levels}
    return replace(target_named(machine.target), cache_bytes=sizes["L2"], first_cache_bytes=sizes["L1"])


def plan_of(network: str, sparsity: float, threads: int, target: Any) -> Any:
    """Our plan of a network with the groups of `peers.py`."""
    import torch
    from _peers._cases import ALIGNED, random_network

    from flexgroup.engine import plan_graph
    from flexgroup.graph import optimize, read_network
    from flexgroup.zoo import input_shape

    model = random_network(network, sparsity, ALIGNED)
    graph, _, _ = read_network(model, (torch.zeros(1, *input_shape(network)),))
    return plan_graph(optimize(graph), target, threads=threads, sparse=sparsity > 0)


def row_of(verdict: dict[str, Any], machine: Any, target: Any) -> dict[str, Any]:
    from flexgroup.engine._profile import least_seconds

    network, sparsity, threads = verdict["network"], verdict["sparsity"], verdict["threads"]
    plan = plan_of(network, sparsity, threads, target)
    multiplied = 2e3 * sum(step.macs for step in plan.steps) / machine.peak_of(threads)
    least = 1e3 * least_seconds(plan, machine)
    return {
        **{name: verdict[name] for name in ("network", "sparsity", "threads", "ours_ms", "peer", "peer_ms", "target")},
        "fma_ms": multiplied,
        "roofline_ms": least,
        "reached": least / verdict["ours_ms"],
        "peer_reached": least / verdict["peer_ms"],
        "ratio": verdict["ratio"],
        "most": verdict["peer_ms"] / least,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, default=ROOT / "results" / "peers_avx2.json", help="results of peers.py")
    parser.add_argument("--rates", type=Path, help="the rates of the machine of --peers; by default this one's")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--out", type=Path, help="write the results to this JSON file")
    options = parser.parse_args()
    machine = machine_of(options.rates) if options.rates else machine_at_hand()
    target = target_of(machine)
    print(machine)
    print(f"{'':13} {'zeros':>6} {'threads':>7} {'FMA':>7} {'roofline':>8} {'ours':>7} {'reached':>7}", end="")
    print(f" {'peer':>7} {'reached':>7} {'ratio':>6} {'target':>6} {'most':>6}  fastest fp32 peer")
    rows = []
    for verdict in json.loads(options.peers.read_text())["fastest_peer"]:
        wanted = str(verdict["threads"]) in options.threads.split(",") and verdict["threads"] <= machine.cores
        if "bf16" in verdict["peer"] or not wanted:
            continue
        row = row_of(verdict, machine, target)
        rows.append(row)
        goal = f"{row['target']:6.2f}" if row["target"] else f"{'':6}"
        print(
            f"{row['network']:13} {row['sparsity']:6.0%} {row['threads']:7} {row['fma_ms']:7.3g} "
            f"{row['roofline_ms']:8.3g} {row['ours_ms']:7.3g} {row['reached']:7.0%} {row['peer_ms']:7.3g} "
            f"{row['peer_reached']:7.0%} {row['ratio']:6.2f} {goal} {row['most']:6.2f}  {row['peer']}",
            flush=True,
        )
    if options.out:
        from flexgroup.report import this_machine

        named = f"results/{options.peers.name}"
        rates = f" --rates results/{options.rates.name}" if options.rates else ""
        document = {
            "command": f"python benchmarks/roofline.py --peers {named}{rates} --threads {options.threads}",
            "machine": asdict(this_machine()) if not options.rates else {"cpu": machine.cpu},
            "rates": asdict(machine),
            "rows": rows,
        }
        options.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
