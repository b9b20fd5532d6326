"""How the inner loops of exported code fill the cores of phones, by LLVM's models of those cores.

    python benchmarks/phone_cores.py [--models mobilenet_v2] [--sparsities 0,0.8] [--out results/phone_cores.json]

For every kernel of a network's plan the loop with the most multiply-adds is taken from the assembly and given to
`llvm-mca` (Debian and Ubuntu: `apt install llvm`), which simulates it on a core's pipelines; a network's cycles are its
multiply-adds over what the loops reach. Weights are random, and so are the 4x1 groups that are zero.

Two ways to arrange the same loops are compared: for the little cores of phones, as `flexgroup export` does, and for a
big one. What the models leave out is the same in both: caches, what is outside of loops, and on a
Cortex-A55 that a load of 128 bits stops it for two cycles and that it begins one multiply-add of 128 bits a cycle, not
two. So the ratios say something, and the cycles are a bound.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
from collections import defaultdict
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

CORES = {  # LLVM's names of the models, and the phones' cores that they describe
    "cortex-a55": "Cortex-A55",
    "cortex-a510": "Cortex-A510",
    "neoverse-n1": "Cortex-A76",
    "neoverse-n2": "Cortex-A710",
    "neoverse-v2": "Cortex-X3",
}
BIG = "cortex-a76"
OLDEST = 17  # LLVM whose models have all of these cores
ROUNDS = 100


def busiest_loop(text: str) -> tuple[int, str]:
    """The innermost loop with the most multiply-adds: how many it has, and its instructions."""
    lines = text.splitlines()
    labels = {line.split(":")[0]: i for i, line in enumerate(lines) if re.match(r"\.?L\w+:", line)}
    best = (0, "")
    for end, line in enumerate(lines):
        jump = re.search(r"\t(?:b\.\w+|cbn?z|tbn?z)\s.*?(\.?L\w+)$", line)
        start = labels.get(jump.group(1), end) if jump else end
        if start >= end or any(start < other < end for other in labels.values()):
            continue
        body = [each for each in lines[start + 1 : end + 1] if re.match(r"\t[^.]", each)]
        best = max(best, (sum("fmla" in each for each in body), "\n".join(body)))
    return best


@cache
def cycles(loop: str, core: str, tool: str) -> float:
    """Of one round of the loop."""
    command = [tool, "-mtriple=aarch64", f"-mcpu={core}", "-mattr=+fullfp16", f"-iterations={ROUNDS}"]
    said = subprocess.run(command, input=loop, capture_output=True, text=True, check=True).stdout
    (total,) = re.findall(r"Total Cycles:\s+(\d+)", said)
    return int(total) / ROUNDS


def network_cycles(plan: Any, target: Any, tool: str) -> dict[str, float]:
    """By core, the cycles of all multiply-adds of a plan whose code is arranged for ``target``."""
    from flexgroup.engine._objects import assembly

    macs: dict[Any, int] = defaultdict(int)
    for step in plan.steps:
        macs[step.kernel] += step.macs
    totals: dict[str, float] = defaultdict(float)
    for kernel, count in macs.items():
        multiplies, loop = busiest_loop(assembly((kernel,), target))
        if count and multiplies:
            for core in CORES:
                totals[core] += count / target.lanes(kernel.element) / multiplies * cycles(loop, core, tool)
    return dict(totals)


def measure(name: str, sparsity: float, tool: str) -> dict[str, Any]:
    from _networks import with_random_groups

    from flexgroup.engine import plan_graph
    from flexgroup.graph import optimize, read_network
    from flexgroup.kernels import target_named

    model, x = with_random_groups(name, sparsity)
    graph = optimize(read_network(model, (x,))[0])
    little = target_named("aarch64-android")
    big = replace(little, cpu=BIG, features="+neon", in_order=False)
    row: dict[str, Any] = {"model": name, "sparsity": sparsity, "million_cycles": {}, "arranged_for_big": {}}
    for key, target in (("million_cycles", little), ("arranged_for_big", big)):
        plan = plan_graph(graph, target)
        row["million_macs"] = round(sum(step.macs for step in plan.steps) / 1e6, 1)
        row[key] = {core: round(count / 1e6, 2) for core, count in network_cycles(plan, target, tool).items()}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="mobilenet_v2,mobilenet_v1,mobilenet_v3_large,resnet50,resnet20")
    parser.add_argument("--sparsities", default="0,0.8,0.9")
    parser.add_argument("--tool", default="llvm-mca", help="the program llvm-mca, of LLVM 17 or later")
    parser.add_argument("--out", type=Path, help="write the results to this JSON file")
    options = parser.parse_args()
    if shutil.which(options.tool) is None:
        parser.error(f"--tool {options.tool} is not there; install LLVM's tools (apt install llvm), or name it")
    said = subprocess.run([options.tool, "--version"], capture_output=True, text=True, check=True).stdout
    version = "".join(re.findall(r"LLVM version (\d+\S*)", said)[:1])
    if not version or int(version.split(".")[0]) < OLDEST:
        parser.error(
            f"--tool {options.tool} is of LLVM {version or '?'}, which has no models of some cores; "
            f"give one of LLVM {OLDEST} or later"
        )
    rows = []
    print("multiply-adds of 128 bits a cycle in code for little cores; in brackets, over those in code for big ones")
    print(f"{'network':20} {'zeros':>6} {'M MACs':>7}" + "".join(f"{name:>16}" for name in CORES.values()))
    for name in options.models.split(","):
        for sparsity in map(float, options.sparsities.split(",")):
            row = measure(name, sparsity, options.tool)
            rows.append(row)
            rates = [
                f"{row['million_macs'] / 4 / row['million_cycles'][core]:8.2f} "
                f"({row['arranged_for_big'][core] / row['million_cycles'][core]:4.2f}x)"
                for core in CORES
            ]
            print(f"{name:20} {sparsity:6.0%} {row['million_macs']:7}" + "".join(rates), flush=True)
    if options.out:
        from flexgroup.report import this_machine

        document = {
            "command": f"python benchmarks/phone_cores.py --models {options.models} --sparsities {options.sparsities} "
            f"--tool {options.tool}",
            "llvm_mca": version,
            "cores": CORES,
            "big": BIG,
            "machine": asdict(this_machine()),
            "rows": rows,
        }
        options.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
