"""Files of runs that never were: errors that are plausible, and easy to compute again."""

from __future__ import annotations

from typing import Any

WORSE = {"1x1": 0.0, "2x1": 1.0, "4x1": 2.2, "8x1": 3.6, "1x4": 1.5, "1x8": 2.4, "2x2": 1.9, "2x4": 3.1, "4x4": 4.6}
ALIGNED, PERMUTED = 0.9, 0.5  # points of error more than unaligned


def pruned(groups: str, alignment: str, sparsity: float, seed: int = 0, **other: Any) -> dict[str, Any]:
    """One run's file. The error at 95 % of unaligned 4x1 groups is 18.2 - 0.1 * seed."""
    base = {0.5: 8.4, 0.8: 9.0, 0.9: 11.0, 0.95: 16.0, 0.97: 22.0}[sparsity]
    more = {"aligned": ALIGNED, "permuted": PERMUTED}.get(alignment, 0.0) if groups != "1x1" else 0.0
    error = base + WORSE.get(groups, 24.0 if groups == "1xK" else 1.0) * base / 16 + more * base / 16 - 0.1 * seed
    budget = other.get("budget", "global")
    return {
        "schema": 1,
        "name": f"{groups.replace(':', 'of')}-{alignment}-{budget}-{100 * sparsity:g}-seed{seed}",
        "kind": "pruned",
        "network": "resnet20",
        "groups": groups,
        "alignment": alignment,
        "sparsity": sparsity,
        "budget": budget,
        "recipe": "gradual",
        "epochs": 30,
        "seed": seed,
        "accuracy": {
            "test": 100 - error,
            "validation": 101 - error,
            "one_shot": 10.0,
            "one_shot_reestimated": 100 - 3 * error,
            "one_shot_refit": 100 - 2 * error,
        },
        "kept_magnitude": 0.18 - 0.01 * WORSE.get(groups, 5.0) - 0.01 * more,
        "measured_sparsity": sparsity,
        "times": {"ms": 0.9 * (1.02 - sparsity) * (2.5 if groups == "1x1" else 1.0 + 0.05 * more), "macs": 2_000_000},
        "seconds": 300.0,
        "versions": {"torch": "2.13.0"},
        "machine": {"cpu": "some processor", "cores": 2, "system": "Linux"},
        "command": "python experiments/cifar10.py run --epochs 30",
        **other,
    }


def dense(network: str, error: float, ms: float, macs: int, seed: int = 0) -> dict[str, Any]:
    return {
        **pruned("1x1", "aligned", 0.5, seed),
        "name": f"dense-{network}-seed{seed}",
        "kind": "dense",
        "network": network,
        "groups": None,
        "alignment": None,
        "sparsity": 0.0,
        "recipe": "dense",
        "accuracy": {"test": 100 - error},
        "times": {"ms": ms, "macs": macs},
    }


def everything() -> list[dict[str, Any]]:
    """All shapes, alignments and sparsities; three seeds at 95 %; the ends of the scale; dense networks."""
    runs = []
    for sparsity in (0.8, 0.9, 0.95, 0.97):
        for seed in range(3 if sparsity == 0.95 else 1):
            for groups in WORSE:
                free = "rows" if groups.endswith("x1") else "cols"
                for alignment in ("aligned",) if groups == "1x1" else ("aligned", "permuted", free):
                    runs.append(pruned(groups, alignment, sparsity, seed))
            runs.append(pruned("1xK", "aligned", sparsity, seed))
    runs.append(pruned("2:4", "aligned", 0.5, budget="layer"))
    runs += [pruned("4x1", alignment, 0.95, budget="line") for alignment in ("aligned", "rows")]
    sizes = (("resnet20-width4", 25.0, 0.06), ("resnet20-width8", 15.5, 0.14), ("resnet20-width12", 11.5, 0.24))
    runs += [dense(name, error, ms, int(1e8 * ms)) for name, error, ms in (*sizes, ("resnet8-width8", 22.0, 0.07))]
    return runs
