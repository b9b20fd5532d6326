"""Where the time goes, and why every layer runs as it does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flexgroup.engine._plan import Plan


@dataclass(frozen=True)
class ProfileRow:
    """One step: median milliseconds, its share of the total, and the rate of the multiply-adds it executes."""

    name: str
    kernel: str
    ms: float
    share: float
    cumulative: float
    gflops: float


@dataclass(frozen=True)
class Profile:
    """All steps in order. ``print`` shows the columns of LiteRT's benchmark tool: ms, %, cdf %, name."""

    rows: tuple[ProfileRow, ...]

    @property
    def ms(self) -> float:
        return sum(row.ms for row in self.rows)

    def __str__(self) -> str:
        lines = [f"{'ms':>9} {'%':>6} {'cdf %':>6} {'GFLOP/s':>8}  {'kernel':32} layer"]
        lines += [
            f"{row.ms:9.4f} {row.share:6.1%} {row.cumulative:6.1%} {row.gflops:8.1f}  {row.kernel:32} {row.name}"
            for row in self.rows
        ]
        return "\n".join([*lines, f"{self.ms:9.4f} total"])


@dataclass(frozen=True)
class LayerChoice:
    """One layer: its kernel, the share of zero weights, multiply-adds run and dense, and the reason."""

    name: str
    kernel: str
    sparsity: float
    macs: int
    dense_macs: int
    reason: str


@dataclass(frozen=True)
class Explanation:
    """What was chosen for every layer that has weights; ``print`` shows it as a table."""

    layers: tuple[LayerChoice, ...]

    def __str__(self) -> str:
        width = max((len(layer.name) for layer in self.layers), default=5)
        lines = [f"{'layer':{width}}  {'zeros':>6}  {'MMACs':>8}  {'dense':>8}  kernel and reason"]
        lines += [
            f"{layer.name:{width}}  {layer.sparsity:6.1%}  {layer.macs / 1e6:8.3f}  {layer.dense_macs / 1e6:8.3f}  "
            f"{layer.kernel}: {layer.reason or 'the only kernel for this layer'}"
            for layer in self.layers
        ]
        return "\n".join(lines)


def profile_rows(plan: Plan, seconds: npt.NDArray[np.float64]) -> Profile:
    """A profile from the (rounds, steps) times of one image."""
    times = np.median(seconds, axis=0)
    total = max(float(times.sum()), 1e-12)
    cumulative = np.cumsum(times) / total
    rows = [
        ProfileRow(
            step.name,
            step.kernel.name,
            float(time) * 1e3,
            float(time) / total,
            float(done),
            2 * step.macs / max(float(time), 1e-9) / 1e9,
        )
        for step, time, done in zip(plan.steps, times, cumulative, strict=True)
    ]
    return Profile(tuple(rows))


def explain_plan(plan: Plan) -> Explanation:
    """The choices of a plan."""
    return Explanation(
        tuple(
            LayerChoice(
                step.name,
                step.kernel.name,
                1 - step.useful_macs / step.dense_macs,
                step.macs,
                step.dense_macs,
                step.reason,
            )
            for step in plan.steps
            if step.dense_macs
        )
    )
