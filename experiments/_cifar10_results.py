"""What was measured: a JSON file a run and one of times, read with every check, and put together over seeds."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flexgroup import FlexgroupError

SCHEMA = 1
LATENCY = "latency.json"
ROLES = {
    "aligned": "aligned",
    "permuted": "permuted",
    "rows": "unaligned",
    "cols": "unaligned",
    "rows-permuted": "unaligned, permuted",
    "cols-permuted": "unaligned, permuted",
}
COMPARED = {  # roles of groups, and how a sentence about them goes on
    ("unaligned", "aligned"): "aligned ones",
    ("unaligned", "permuted"): "permuted ones",
    ("unaligned, permuted", "permuted"): "permuted ones where both have their own permutation",
}
SHAPES = ("2x1", "4x1", "8x1", "1x4", "1x8", "2x2", "2x4", "4x4")
ENDS = {"1x1": "fine-grained (1x1)", "filter": "whole filters", "2:4": "2:4 (at once)"}
_KEYS = {"name": str, "kind": str, "network": str, "recipe": str, "epochs": int, "seed": int, "accuracy": dict}


@dataclass(frozen=True)
class Result:
    """One trained network. Accuracies are in percent.

    ``role`` is aligned, permuted (aligned after a permutation of channels), unaligned or both; ``groups`` and ``role``
    are None for a dense network. ``ms`` is one image on one thread with a pattern like this one's, ``ms_trained`` with
    its own; ``macs`` are of the former.
    """

    name: str
    network: str
    groups: str | None
    role: str | None
    sparsity: float
    budget: str
    recipe: str
    epochs: int
    seed: int
    accuracy: Mapping[str, float]
    kept_magnitude: float | None
    macs: int | None
    ms: float | None
    ms_trained: float | None
    command: str
    machine: str

    @property
    def is_dense(self) -> bool:
        return self.groups is None

    def error(self, measure: str) -> float | None:
        """In percent; ``measure`` is a key of ``accuracy``."""
        return 100.0 - self.accuracy[measure] if measure in self.accuracy else None


@dataclass(frozen=True)
class Mean:
    """Over ``count`` seeds; the deviation is the sample's standard deviation, None for a single seed."""

    value: float
    deviation: float | None
    count: int

    def text(self, sign: bool = False) -> str:
        shown = f"{self.value:+.2f}" if sign else f"{self.value:.2f}"
        spread = "" if self.deviation is None else f" ± {self.deviation:.2f}"
        return f"{shown}{spread} ({self.count})"


def mean_of(values: Iterable[float]) -> Mean | None:
    """None of nothing."""
    known = list(values)
    if not known:
        return None
    return Mean(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None, len(known))


def read_results(folder: Path) -> list[Result]:
    """All runs in ``folder/runs``, by name, with their times in ``folder/latency.json``, where that is.

    Raises `FlexgroupError` for a file that is no result, and where there is none.
    """
    runs = folder / "runs"
    if not runs.is_dir():
        raise FlexgroupError(f"results {runs}: there is no such folder; run the experiment first")
    times = _times(folder / LATENCY)
    results = [_read(file, times) for file in sorted(runs.glob("*.json")) if not file.name.startswith(".")]
    if not results:
        raise FlexgroupError(f"results {runs}: there is no result in it; run the experiment first")
    return results


def measure_of(results: Sequence[Result]) -> str:
    """Whose accuracy is reported: the test images' if any run has read them, else the validation images'."""
    return "test" if any("test" in result.accuracy for result in results) else "validation"


def recipes_of(results: Iterable[Result]) -> list[str]:
    """The trainings of pruned networks, the one with the most runs first."""
    counts = Counter(result.recipe for result in results if not result.is_dense)
    return sorted(counts, key=lambda recipe: (-counts[recipe], recipe))


def main_budget(results: Iterable[Result], recipe: str) -> str | None:
    """The budget with which most networks of a training were pruned, 2:4 aside; None where there are none."""
    counts = Counter(one.budget for one in results if one.recipe == recipe and one.groups not in (None, "2:4"))
    return min(counts, key=lambda budget: (-counts[budget], budget), default=None)


def shapes_of(results: Iterable[Result]) -> list[str]:
    """The group shapes between the ends of the scale, in their usual order."""
    found = {result.groups for result in results if result.groups is not None} - set(ENDS)
    return [shape for shape in SHAPES if shape in found] + sorted(found - set(SHAPES))


def pick(results: Iterable[Result], groups: str, role: str, sparsity: float) -> list[Result]:
    """The seeds of one network, in order."""
    wanted = (groups, role, sparsity)
    found = [one for one in results if (one.groups, one.role, one.sparsity) == wanted]
    return sorted(found, key=lambda one: one.seed)


def error_of(results: Iterable[Result], measure: str) -> Mean | None:
    """The mean error, in percent."""
    return mean_of(error for one in results if (error := one.error(measure)) is not None)


def difference(ours: Sequence[Result], theirs: Sequence[Result], measure: str) -> Mean | None:
    """How much more error we have, in points, seed by seed: what a seed does to both is no difference."""
    other = {one.seed: one.error(measure) for one in theirs}
    pairs = [(one.error(measure), other.get(one.seed)) for one in ours]
    return mean_of(mine - yours for mine, yours in pairs if mine is not None and yours is not None)


def less_error(gaps: Mapping[str, float]) -> str:
    """In how many shapes the first of two kinds of groups errs less, and by how much; ``gaps`` are by shape."""
    better, many = sum(gap < 0 for gap in gaps.values()), "s" * (len(gaps) > 1)
    mean = statistics.fmean(gaps.values())
    return f"less error in {better} of {len(gaps)} shape{many}, {mean:+.2f} points in the mean"


def _document(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FlexgroupError(f"result {file} cannot be read ({error}); remove it and run it again") from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise FlexgroupError(f"result {file} is not of schema {SCHEMA}; remove it and run it again")
    return document


def _times(file: Path) -> Mapping[str, Mapping[str, float]]:
    if not file.exists():
        return {}
    networks = _document(file).get("networks")
    if not isinstance(networks, dict) or not all(isinstance(one, dict) and "ms" in one for one in networks.values()):
        raise FlexgroupError(f"result {file}: networks missing or not as expected; remove it and measure again")
    return networks


def _read(file: Path, times: Mapping[str, Mapping[str, float]]) -> Result:
    document = _document(file)
    wrong = [key for key, kind in _KEYS.items() if not isinstance(document.get(key), kind)]
    pruned = document.get("kind") == "pruned"
    if pruned:
        wrong += [key for key in ("groups", "sparsity", "budget") if document.get(key) is None]
        wrong += ["alignment"] if document.get("alignment") not in ROLES else []
    if wrong:
        raise FlexgroupError(
            f"result {file}: {', '.join(wrong)} missing or not as expected; remove it and run it again"
        )
    return _result(document, pruned, times.get(document["name"], {}))


def _result(document: Mapping[str, Any], pruned: bool, timed: Mapping[str, float]) -> Result:
    machine = document.get("machine") or {}
    groups = "filter" if document.get("groups") == "1xK" else document.get("groups")
    parts = [machine.get("gpu"), machine.get("cpu"), f"{machine['cores']} cores" if "cores" in machine else None]
    return Result(
        name=document["name"],
        network=document["network"],
        groups=groups if pruned else None,
        role=ROLES[document["alignment"]] if pruned else None,
        sparsity=float(document["sparsity"]) if pruned else 0.0,
        budget=document["budget"] if pruned else "",
        recipe=document["recipe"],
        epochs=document["epochs"],
        seed=document["seed"],
        accuracy={key: float(value) for key, value in document["accuracy"].items() if value is not None},
        kept_magnitude=document.get("kept_magnitude"),
        macs=int(timed["macs"]) if "macs" in timed else None,
        ms=timed.get("ms"),
        ms_trained=timed.get("trained_ms"),
        command=document.get("command") or "",
        machine=", ".join(part for part in parts if part),
    )
