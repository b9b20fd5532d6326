"""Why every layer runs as it does: the kernel that was chosen, what it was predicted to cost, and its chain."""

from __future__ import annotations

from dataclasses import dataclass

from flexgroup.engine._machine import measured_machine
from flexgroup.engine._plan import HALO, Plan, Step
from flexgroup.engine._precision import in_words
from flexgroup.kernels import F32, runs_here


@dataclass(frozen=True)
class Memory:
    """Bytes that a compiled network holds: its activations (one image, the peak), and its weights and tables."""

    activations: int
    constants: int

    def __str__(self) -> str:
        return f"activations {self.activations / 2**20:.1f} MiB, constants {self.constants / 2**20:.1f} MiB"


@dataclass(frozen=True)
class LayerChoice:
    """One layer: its kernel, the share of zero weights, multiply-adds run and dense, and the reason.

    ``predicted_us`` is the cost model's estimate in microseconds of one core (0: none was made); ``calls`` are the
    kernel calls it takes. Layers with the same ``chain`` (-1: none) take turns, band by band, so that what they pass
    on stays in cache; in those with the same ``region`` threads keep rows of their own.
    """

    name: str
    kernel: str
    sparsity: float
    macs: int
    dense_macs: int
    reason: str
    predicted_us: float = 0.0
    calls: int = 1
    chain: int = -1
    region: int = -1


@dataclass(frozen=True)
class Explanation:
    """What was chosen for every layer that has weights; ``print`` shows it as a table.

    ``chains`` and ``regions`` are the names of all steps of each, layers without weights among them. ``precision``
    says how numbers are stored and computed with, ``error`` is the largest difference to torch, in fp32, on the
    example, relative to the largest output.
    """

    layers: tuple[LayerChoice, ...]
    chains: tuple[tuple[str, ...], ...] = ()
    regions: tuple[tuple[str, ...], ...] = ()
    memory: Memory | None = None
    precision: str = ""
    error: float | None = None

    @property
    def numbers(self) -> str:
        """The precision, and what it costs in accuracy, in one sentence."""
        differs = "" if self.error is None else f"; differs from torch by {self.error:.1e} of the largest output"
        return self.precision + differs

    def __str__(self) -> str:
        width = max((len(layer.name) for layer in self.layers), default=5)
        predicted = any(layer.predicted_us for layer in self.layers)
        heading = f"{'predicted us':>12}  " if predicted else ""
        lines = [f"{'layer':{width}}  {'zeros':>6}  {'MMACs':>8}  {'dense':>8}  {heading}kernel and reason"]
        for layer in self.layers:
            cost = (f"{layer.predicted_us:12.1f}" if layer.predicted_us else f"{'-':>12}") + "  " if predicted else ""
            calls = f" in {layer.calls} calls" if layer.calls > 1 else ""
            lines.append(
                f"{layer.name:{width}}  {layer.sparsity:6.1%}  {layer.macs / 1e6:8.3f}  {layer.dense_macs / 1e6:8.3f}  "
                f"{cost}{layer.kernel}{calls}: {layer.reason or 'the only kernel for this layer'}"
            )
        lines += [f"band by band: {', '.join(names)}" for names in self.chains]
        for names in self.regions:
            layers = [name for name in names if not name.endswith(HALO)]
            copied = len(names) - len(layers)
            lines.append(f"every thread its own rows, copying its neighbours' {copied} times: {', '.join(layers)}")
        if self.precision:
            lines.append(f"precision: {self.numbers}")
        return "\n".join(lines if self.memory is None else [*lines, f"memory: {self.memory}"])


def by_layer(plan: Plan) -> dict[str, list[tuple[int, Step]]]:
    """The plan's steps with their numbers, by the layer that they belong to, in order of first occurrence."""
    layers: dict[str, list[tuple[int, Step]]] = {}
    for number, step in enumerate(plan.steps):
        layers.setdefault(step.name, []).append((number, step))
    return layers


def memory_of(plan: Plan) -> Memory:
    """What a plan takes."""
    return Memory(plan.arena_bytes, int(plan.constants.nbytes))


def explain_plan(plan: Plan, error: float | None = None) -> Explanation:
    """The choices of a plan; ``error`` is what was measured of the compiled network."""
    layers: list[LayerChoice] = []
    chains: dict[int, list[str]] = {}
    regions: dict[int, list[str]] = {}
    for name, numbered in by_layer(plan).items():
        steps = [step for _, step in numbered]
        for chain in {step.chain for step in steps if step.chain >= 0}:
            chains.setdefault(chain, []).append(name)
        for region in {step.region for step in steps if step.region >= 0}:
            regions.setdefault(region, []).append(name)
        if any(step.dense_macs for step in steps):
            layers.append(_choice(plan, name, steps))
    said = in_words(plan.element, plan.target)
    bands, rows = (tuple(map(tuple, found.values())) for found in (chains, regions))
    return Explanation(tuple(layers), bands, rows, memory_of(plan), said, error)


def _choice(plan: Plan, name: str, steps: list[Step]) -> LayerChoice:
    busiest = max(steps, key=lambda step: step.macs)
    dense = sum(step.dense_macs for step in steps)
    return LayerChoice(
        name=name,
        kernel=busiest.kernel.name,
        sparsity=1 - sum(step.useful_macs for step in steps) / dense,
        macs=sum(step.macs for step in steps),
        dense_macs=dense,
        reason=busiest.reason,
        predicted_us=_microseconds(plan, sum(step.slots for step in steps)),
        calls=len(steps),
        chain=busiest.chain,
        region=busiest.region,
    )


def _microseconds(plan: Plan, slots: float) -> float:
    """What the cost model's unit is on this machine: a vector multiply-add at its measured peak."""
    if not slots or not plan.target.triple or not runs_here(plan.target):
        return 0.0
    return 1e6 * slots * 2 * plan.target.lanes(F32) / measured_machine().peak
