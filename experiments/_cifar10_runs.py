"""What the experiment compares: every network that is trained, as a value, in the order in which they are wanted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from flexgroup import FlexgroupError, Groups

ROW_SHAPES = ("4x1", "2x1", "8x1")  # groups along the output channels: unaligned rows
COLUMN_SHAPES = ("2x4", "1x8", "4x4", "2x2", "1x4")  # groups along the reduction: unaligned columns
SPARSITIES = (0.95, 0.9, 0.8, 0.97)
MAIN, GLOBAL, BALANCED = "erdos-renyi", "global", "erdos-renyi-line"
MOST_SEEDS_AT = 0.95  # the sparsity at which more seeds than the first are run

# Blocks a stage and width of the first: what somebody would train who wants a faster network without pruning.
SMALL_NETWORKS = ((3, 8), (1, 16), (1, 8), (3, 4), (2, 8), (3, 12), (2, 16), (1, 4))
TELLING = ("1x1", "4x1", "2x4", "2x1")  # what is run first


@dataclass(frozen=True)
class Pruned:
    """The pretrained ResNet-20, pruned and trained.

    ``alignment`` is aligned, rows or cols; or, after a permutation of channels, permuted (aligned), rows-permuted or
    cols-permuted.
    """

    groups: str
    alignment: str
    sparsity: float
    seed: int
    budget: str = MAIN

    @property
    def name(self) -> str:
        groups = self.groups.replace(":", "of")
        budget = "" if self.budget == MAIN else f"-{self.budget}"
        return f"{groups}-{self.alignment}{budget}-{100 * self.sparsity:g}-seed{self.seed}"

    @property
    def spec(self) -> Groups:
        """The groups, aligned or not."""
        return Groups(self.groups, {"rows": "rows", "cols": "cols"}.get(self.alignment.split("-")[0]))


@dataclass(frozen=True)
class Dense:
    """A smaller dense network trained from random weights: ``blocks`` a stage, ``width`` of the first."""

    blocks: int
    width: int
    seed: int

    @property
    def name(self) -> str:
        return f"dense-{6 * self.blocks + 2}-width{self.width}-seed{self.seed}"


Run = Pruned | Dense


def all_runs(seeds: int) -> list[Run]:
    """Everything, the most telling first: whoever stops early has the most of the comparison."""
    if seeds < 1:
        raise FlexgroupError(f"--seeds {seeds}: give at least 1")
    telling = [run for run in _pruned(SPARSITIES[0], 0) if run.groups in TELLING]
    runs: list[Run] = [*telling, *(Dense(*size, seed=0) for size in SMALL_NETWORKS[:3])]
    runs += [run for run in _pruned(SPARSITIES[1], 0) if run.groups in TELLING[:2] and "permuted" not in run.alignment]
    runs += [*_pruned(SPARSITIES[0], 0), *(Dense(*size, seed=0) for size in SMALL_NETWORKS)]
    for sparsity in SPARSITIES[1:3]:
        runs += _pruned(sparsity, 0)
    for seed in range(1, seeds):
        runs += _pruned(MOST_SEEDS_AT, seed)
    runs += _pruned(SPARSITIES[3], 0)
    for budget in (GLOBAL, BALANCED):
        runs += _pruned(MOST_SEEDS_AT, 0, budget)
    runs.append(Pruned("2:4", "aligned", 0.5, 0, "layer"))
    return list(dict.fromkeys(runs))


def _pruned(sparsity: float, seed: int, budget: str = MAIN) -> Iterator[Pruned]:
    """All patterns at one sparsity: the two ends of the scale, then every shape aligned, permuted, unaligned."""
    if budget != BALANCED:
        yield Pruned("1x1", "aligned", sparsity, seed, budget)
    for shapes, unaligned in ((ROW_SHAPES, "rows"), (COLUMN_SHAPES, "cols")):
        for shape in shapes:
            for alignment in ("aligned", unaligned, "permuted", f"{unaligned}-permuted"):
                if "permuted" not in alignment or budget != BALANCED:
                    yield Pruned(shape, alignment, sparsity, seed, budget)
    if budget != BALANCED:
        yield Pruned("1xK", "aligned", sparsity, seed, budget)
