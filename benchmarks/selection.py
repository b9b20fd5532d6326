"""How fast the exact groups are found, how that grows, and what they keep: beside the published methods and the limits.

    python benchmarks/selection.py [--weights resnet20.safetensors] [--mobilenet mobilenet_v2.safetensors]
        [--parts speed scaling training quality] [--large] [--out results/selection.json]

speed: all of ResNet-50's convolutions and its classifier (random weights), 4x1 groups unaligned along rows, one budget
for the network. scaling: 10^6 to 10^8 weights (--large: 10^9, takes 12 GB). training: a re-choice beside 50 training
steps of ResNet-20. quality: |weight| kept of pretrained networks, with and without alignment.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
from _selection_tables import BATCH, LIMITS, STEPS, show_quality, show_scaling, show_speed, show_training
from rich.console import Console

from flexgroup import Groups, select
from flexgroup.groups import reference
from flexgroup.report import this_machine

Scores = dict[str, npt.NDArray[np.float32]]
ROWS = Groups("4x1", unaligned="rows")
SHARES = (0.05, 0.1, 0.2)
ROUNDS = 5
PROGRAMME_LAYER = "layer2.0.conv2"  # 128x1152: small enough to run the dynamic programme on it
SIZES = {10**6: (1, 1000, 1000), 10**7: (1, 2000, 5000), 10**8: (4, 5000, 5000), 10**9: (40, 5000, 5000)}
PATTERNS = ("1x4 cols", "1x8 cols", "2x2 cols", "2x4 cols", "4x4 cols", "2x1 rows", "4x1 rows", "8x1 rows")


def resnet50() -> Scores:
    """|weights| of ResNet-50's shapes: normal, with a variance of 1/K."""
    shapes, inputs = {"conv1": (64, 147)}, 64
    for stage, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), start=1):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            shapes |= {f"{name}.conv1": (width, inputs), f"{name}.conv2": (width, 9 * width)}
            shapes |= {f"{name}.conv3": (4 * width, width)}
            if block == 0:
                shapes[f"{name}.downsample"] = (4 * width, inputs)
            inputs = 4 * width
    shapes["fc"] = (1000, inputs)
    rng = np.random.default_rng(0)
    draw = {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
    return {name: np.abs(matrix) / np.float32(np.sqrt(matrix.shape[1])) for name, matrix in draw.items()}


def seconds(call: Callable[[], object]) -> float:
    """Of one call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


@contextmanager
def fresh_process() -> Iterator[ProcessPoolExecutor]:
    """A new Python, with nothing compiled or allocated yet."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        yield pool


def first_call() -> float:
    """Seconds of the first selection in this process, of 4,096 weights: nearly all of it gets code ready."""
    scores = {"": np.random.default_rng(0).random((64, 64), dtype=np.float32)}
    return seconds(lambda: select(scores, ROWS, 0.1))


def speed() -> dict[str, Any]:
    """Seconds of each method on ResNet-50, taking turns."""
    with tempfile.TemporaryDirectory() as cache:
        before = os.environ.get("NUMBA_CACHE_DIR")
        os.environ["NUMBA_CACHE_DIR"] = cache
        firsts = []
        for _ in range(2):
            with fresh_process() as pool:
                firsts.append(pool.submit(first_call).result())
        del os.environ["NUMBA_CACHE_DIR"]
        if before is not None:
            os.environ["NUMBA_CACHE_DIR"] = before
    scores = resnet50()
    # The published methods are given their lines ready made, in the type that they compute in.
    lines = [matrix.astype(np.float64) for matrix in scores.values()]
    weights = sum(matrix.size for matrix in lines)
    shares = []
    for keep in SHARES:
        chosen = select(scores, ROWS, keep)
        count = sum(chosen.kept.values())
        calls: dict[str, Callable[[], object]] = {
            "exact": lambda keep=keep: select(scores, ROWS, keep),
            "bed": lambda count=count: reference.bed(lines, 4, count),
            "greedy": lambda count=count: reference.greedy(lines, 4, count),
        }
        kept = {name: _kept(lines, calls[name]()) / chosen.score for name in ("bed", "greedy")}
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(ROUNDS):
            for name, call in calls.items():
                times[name].append(seconds(call))
        middle = {name: median(values) for name, values in times.items()}
        shares.append(
            {
                "keep": keep,
                "groups": count,
                "seconds": middle,
                "slowest_exact_seconds": max(times["exact"]),
                "score_over_exact": kept,
                "times_faster_than_bed": middle["bed"] / middle["exact"],
                "dynamic_programme": programme(scores, keep, chosen.kept, middle["exact"]),
            }
        )
    return {
        "weights": weights,
        "layers": len(scores),
        "groups": str(ROWS),
        "budget": "global",
        "rounds": ROUNDS,
        "first_call_seconds": {"code compiled": firsts[0], "code in numba's cache": firsts[1]},
        "shares": shares,
        "balanced": balanced(scores),
    }


def _kept(lines: list[npt.NDArray[np.float64]], masks: Any) -> float:
    return float(sum(matrix[mask].sum() for matrix, mask in zip(lines, masks, strict=True)))


def programme(scores: Scores, keep: float, kept: Mapping[str, int], exact: float) -> dict[str, Any]:
    """The dynamic programme: measured on one layer, extrapolated to the network by its (weights x groups) cells.

    The share of groups is the same in both, so the same part of the cells is out of reach and skipped. Its memory, a
    byte a cell, rules out running it on the network.
    """
    part = scores[PROGRAMME_LAYER].astype(np.float64)
    count = round(keep * part.size / 4)
    reference.dynamic_programme([part[:, :4]], 4, 4)
    measured = median(seconds(lambda: reference.dynamic_programme([part], 4, count)) for _ in range(3))
    cell = measured / (part.size * count)
    together = sum(matrix.size for matrix in scores.values()) * sum(kept.values())
    alone = sum(matrix.size * round(keep * matrix.size / 4) for matrix in scores.values())
    return {
        "measured_shape": list(part.shape),
        "measured_seconds": measured,
        "picoseconds_a_cell": cell * 1e12,
        "extrapolated_seconds": cell * together,
        "extrapolated_bytes": together,
        "times_faster": cell * together / exact,
        "extrapolated_seconds_with_a_budget_in_each_layer": cell * alone,
        "times_faster_with_a_budget_in_each_layer": cell * alone / exact,
    }


def balanced(scores: Scores, keep: float = 0.1) -> dict[str, Any]:
    """As many groups in every line: here the dynamic programme is small, and is run on everything."""

    def run() -> None:
        for name, matrix in wide.items():
            for line in range(matrix.shape[1]):
                reference.dynamic_programme([matrix[:, line : line + 1]], 4, each[name])

    wide = {name: matrix.astype(np.float64) for name, matrix in scores.items()}
    each = {name: round(keep * matrix.shape[0] / 4) for name, matrix in scores.items()}
    shares = {name: 4 * each[name] / matrix.shape[0] for name, matrix in scores.items()}
    select(scores, ROWS, shares, "line")
    ours = median(seconds(lambda: select(scores, ROWS, shares, "line")) for _ in range(3))
    return {"keep": keep, "exact_seconds": ours, "dynamic_programme_seconds": seconds(run)}


def memory() -> tuple[int, int]:
    """Bytes in memory now, and the most there have been; (0, the most) where only that is known."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        import resource

        return 0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    facts = {key: value for key, _, value in (line.partition(":") for line in lines)}
    now, most = (int(facts[key].split()[0]) * 1024 for key in ("VmRSS", "VmHWM"))
    return now, most


def scale(size: int) -> dict[str, Any]:
    """Seconds and memory of one selection; to be called in a process of its own."""
    first_call()
    count, rows, columns = SIZES[size]
    rng = np.random.default_rng(0)
    scores: Scores = {}
    for layer in range(count):
        matrix = np.empty((rows, columns), dtype=np.float32)
        rng.standard_normal(dtype=np.float32, out=matrix)
        scores[f"layer{layer}"] = np.abs(matrix, out=matrix)
    before = memory()[0]
    times = [seconds(lambda: select(scores, ROWS, 0.1))]
    # Upper bound: what was in use when the call began may have been less than the most so far.
    above = memory()[1] - before
    if size < 10**9:
        times = [seconds(lambda: select(scores, ROWS, 0.1)) for _ in range(ROUNDS)]
    allowed = 2 * rows * columns * 4 + size
    return {
        "weights": size,
        "layers": count,
        "seconds": median(times),
        "nanoseconds_a_weight": median(times) / size * 1e9,
        "bytes_above_scores": above,
        "bytes_allowed": allowed,
        "memory_ratio": above / allowed,
    }


def scaling(large: bool) -> list[dict[str, Any]]:
    """Every size in a process of its own."""
    results = []
    for size in SIZES:
        if size < 10**9 or large:
            with fresh_process() as pool:
                results.append(pool.submit(scale, size).result())
    return results


def training() -> list[dict[str, Any]]:
    """A re-choice every 50 steps of ResNet-20, as a share of those steps, in float32 and in bfloat16."""
    import torch
    from torch.nn.functional import cross_entropy

    from flexgroup import Cubic, Pruner
    from flexgroup.zoo import build

    results = []
    for name, form in (("float32", torch.contiguous_format), ("bfloat16 autocast, channels last", torch.channels_last)):
        torch.manual_seed(0)
        model = build("resnet20").train().to(memory_format=form)
        pruner = Pruner(model, ROWS, 0.95, schedule=Cubic(begin=0, end=1000, every=1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        x = torch.randn(BATCH, 3, 32, 32).contiguous(memory_format=form)
        y = torch.randint(10, (BATCH,))

        def train(
            model: Any = model, optimizer: Any = optimizer, x: Any = x, y: Any = y, low: bool = name != "float32"
        ) -> None:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
                loss = cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        train()
        step = median(seconds(train) for _ in range(5))
        pruner.step()
        choice = median(seconds(pruner.step) for _ in range(21))
        share = 100 * choice / (STEPS * step)
        results.append({"type": name, "step_seconds": step, "choice_seconds": choice, "percent_of_50_steps": share})
    return results


def quality(name: str, scores: Scores) -> dict[str, Any]:
    """|weight| kept, as a share of all and relative to fine-grained pruning; and free groups with their gap."""
    total = sum(float(matrix.sum(dtype=np.float64)) for matrix in scores.values())
    fine = select(scores, Groups("1x1"), 0.05).score
    rows = []
    for pattern in PATTERNS:
        size, axis = pattern.split()
        aligned, unaligned = (select(scores, Groups(size, unaligned), 0.05).score for unaligned in (None, axis))
        bed = select(scores, Groups(size, axis), 0.05, method="bed")
        greedy = select(scores, Groups(size, axis), 0.05, method="greedy")
        rows.append(
            {
                "groups": size,
                "axis": axis,
                "aligned": aligned / total,
                "unaligned": unaligned / total,
                "aligned_relative": aligned / fine,
                "unaligned_relative": unaligned / fine,
                "bed_gap": bed.gap,
                "greedy_gap": greedy.gap,
            }
        )
    lines = {layer: matrix.astype(np.float64) for layer, matrix in scores.items()}
    times = {budget: methods(scores, lines, budget) for budget in ("global", "layer")}
    groups = Groups("2x2", unaligned="free")
    select({"": np.random.default_rng(0).random((32, 32), dtype=np.float32)}, groups, 0.1)
    began = time.perf_counter()
    free = select(scores, groups, 0.1)
    took = time.perf_counter() - began
    fine_90 = select(scores, Groups("1x1"), 0.1).score
    bound = {axis or "aligned": select(scores, Groups("2x2", axis), 0.1).score for axis in (None, "rows", "cols")}
    return {
        "network": name,
        "weights": sum(matrix.size for matrix in scores.values()),
        "layers": len(scores),
        "sparsity": 0.95,
        "fine_grained": fine / total,
        "patterns": rows,
        "seconds_4x1_rows": times,
        "free_2x2_at_90_percent": {
            "seconds": took,
            "gap": free.gap,
            "relative": free.score / fine_90,
            "bound_relative": {axis: score / fine_90 for axis, score in bound.items()},
        },
    }


def methods(scores: Scores, lines: dict[str, npt.NDArray[np.float64]], budget: str) -> dict[str, float]:
    """Seconds of each method for 4x1 groups unaligned along rows, keep 5 %, on a small network."""
    kept = select(scores, ROWS, 0.05, budget).kept

    def run(method: Callable[..., object]) -> None:
        if budget == "global":
            method(list(lines.values()), 4, sum(kept.values()))
        else:
            for name, count in kept.items():
                method([lines[name]], 4, count)

    calls = {
        "exact": lambda: select(scores, ROWS, 0.05, budget),
        "bed": lambda: run(reference.bed),
        "greedy": lambda: run(reference.greedy),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(2 * ROUNDS + 1):
        for name, call in calls.items():
            times[name].append(seconds(call))
    return {name: median(values) for name, values in times.items()}


def resnet20_scores(path: Path) -> Scores:
    """|weights| of the layers that pruning targets."""
    from flexgroup.pruning import weight_matrices
    from flexgroup.zoo import build, load_weights

    model = build("resnet20")
    load_weights(model, path)
    return {name: matrix.abs().contiguous().numpy() for name, matrix in weight_matrices(model).items()}


def mobilenet_scores(path: Path) -> Scores:
    """The same of MobileNetV2, by shape: no first convolution, no depthwise ones, no classifier."""
    from flexgroup.zoo import read_weights

    tensors = {name: tensor for name, tensor in read_weights(path).items() if tensor.ndim == 4}
    return {name: t.abs().flatten(1).numpy() for name, t in tensors.items() if t.shape[1] not in (1, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("speed", "scaling", "training", "quality")
    parser.add_argument("--weights", type=Path, help="pretrained ResNet-20, for quality")
    parser.add_argument("--mobilenet", type=Path, help="pretrained MobileNetV2, for quality")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--large", action="store_true", help="10^9 weights too")
    parser.add_argument("--out", type=Path, help="write the results to this JSON file; other parts in it stay")
    options = parser.parse_args()
    console = Console(width=140)
    measured: dict[str, Any] = {}
    if "speed" in options.parts:
        measured["speed"] = speed()
        show_speed(console, measured["speed"])
    if "scaling" in options.parts:
        measured["scaling"] = scaling(options.large)
        show_scaling(console, measured["scaling"])
    if "training" in options.parts:
        measured["training"] = training()
        show_training(console, measured["training"])
    if "quality" in options.parts:
        files = {"ResNet-20": (options.weights, resnet20_scores), "MobileNetV2": (options.mobilenet, mobilenet_scores)}
        measured["quality"] = [quality(name, load(path)) for name, (path, load) in files.items() if path]
        for result in measured["quality"]:
            show_quality(console, result)
    if options.out:
        known = json.loads(options.out.read_text())["parts"] if options.out.exists() else {}
        fresh = {part: {"command": command(part, options), "results": measured[part]} for part in options.parts}
        machine = asdict(this_machine(("numpy", "numba", "torch")))
        document = {"machine": machine, "limits": LIMITS, "parts": known | fresh}
        options.out.write_text(json.dumps(document, indent=1) + "\n")


def command(part: str, options: argparse.Namespace) -> str:
    """What measures this part, with the files by their published names."""
    words = ["python benchmarks/selection.py --parts", part]
    if part == "quality":
        words += ["--weights resnet20.safetensors"] * bool(options.weights)
        words += ["--mobilenet mobilenet_v2.safetensors"] * bool(options.mobilenet)
    return " ".join(words + ["--large"] * (part == "scaling" and options.large))


if __name__ == "__main__":
    main()
