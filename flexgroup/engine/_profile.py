"""Where the time goes, layer by layer, beside what the machine could do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from flexgroup.engine._explain import Memory, by_layer, memory_of
from flexgroup.engine._plan import Plan, Step
from flexgroup.kernels import F32

if TYPE_CHECKING:
    from flexgroup.engine._machine import Machine

Seconds = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ProfileRow:
    """One layer, all its kernel calls together.

    ``ms`` is the median, ``first_ms`` the first run, with cold caches; ``gflops`` the rate of the multiply-adds that
    are executed. ``of_peak`` is the share of the machine's rate of multiply-adds, ``of_bandwidth`` the share of the
    time that moving ``bytes`` takes at least, from the smallest level of memory that holds what a call moves.
    ``least_ms`` is what all calls take at the roofline (`least_seconds`). They are None where there is nothing to
    compare.
    """

    name: str
    kernel: str  # that of most of the time
    ms: float
    share: float
    cumulative: float
    gflops: float
    first_ms: float = 0.0
    calls: int = 1
    bytes: int = 0  # read and written
    of_peak: float | None = None
    of_bandwidth: float | None = None
    least_ms: float | None = None

    @property
    def node_type(self) -> str:
        """The kernel's family."""
        return self.kernel.partition("_")[0]


@dataclass(frozen=True)
class TypeRow:
    """All kernel calls of one family: on how many layers, and their time."""

    node_type: str
    layers: int
    ms: float
    share: float
    cumulative: float
    bytes: int
    calls: int


@dataclass(frozen=True)
class Call:
    """One kernel call on one thread, in seconds from the beginning of the run; waiting for other threads excluded."""

    name: str
    kernel: str
    thread: int
    start: float
    seconds: float
    macs: int
    bytes: int


@dataclass(frozen=True)
class Profile:
    """All layers in order; ``print`` shows the columns of LiteRT's benchmark tool, and some more.

    ``calls`` are the kernel calls of one run, the one of median length, on all threads.
    """

    rows: tuple[ProfileRow, ...]
    types: tuple[TypeRow, ...] = ()
    calls: tuple[Call, ...] = ()
    rounds: int = 0
    threads: int = 1
    memory: Memory | None = None
    machine: Machine | None = None

    @property
    def ms(self) -> float:
        return sum(row.ms for row in self.rows)

    @property
    def least_ms(self) -> float | None:
        """What the network would take if every layer were at the roofline; None where the machine is not known."""
        return None if self.machine is None else sum(row.least_ms or 0.0 for row in self.rows)

    def __str__(self) -> str:
        lines = [f"Time of every layer, {self.threads} thread{'s' if self.threads > 1 else ''}", *_layer_table(self)]
        lines += ["", "Summary by node type", *_type_table(self), ""]
        lines.append(f"Total {self.ms:.4f} ms (avg: medians of {self.rounds} runs; mem: read and written)")
        if self.machine is not None:
            lines.append(f"Machine: {self.machine}")
        if self.least_ms is not None:
            reached = self.least_ms / max(self.ms, 1e-9)
            lines.append(
                f"Roofline: {self.least_ms:.4f} ms, all layers at one of these rates; {reached:.0%} of it reached"
            )
        return "\n".join(lines if self.memory is None else [*lines, f"Memory: {self.memory}"])


_COLUMNS = "{:14} {:>9} {:>9} {:>7} {:>7} {:>9} {:>14}"
_MORE_COLUMNS = " {:>9} {:>7} {:>7}  {:{}}  {}"


def _layer_table(profile: Profile) -> list[str]:
    width = max((len(row.kernel) for row in profile.rows), default=8)
    headings = ("[node type]", "[first]", "[avg ms]", "[%]", "[cdf%]", "[mem KB]", "[times called]")
    more = ("[GFLOP/s]", "[peak%]", "[bw%]", "[kernel]", width, "[Name]")
    lines = [_COLUMNS.format(*headings) + _MORE_COLUMNS.format(*more)]
    for row in profile.rows:
        first = f"{row.first_ms:.4f}"
        rates = (f"{row.gflops:.1f}" if row.gflops else "-", _percent(row.of_peak), _percent(row.of_bandwidth))
        lines.append(
            _COLUMNS.format(row.node_type, first, *_figures(row))
            + _MORE_COLUMNS.format(*rates, row.kernel, width, row.name)
        )
    return lines


def _type_table(profile: Profile) -> list[str]:
    headings = ("[node type]", "[count]", "[avg ms]", "[%]", "[cdf%]", "[mem KB]", "[times called]")
    return [_COLUMNS.format(*headings)] + [
        _COLUMNS.format(row.node_type, row.layers, *_figures(row)) for row in profile.types
    ]


def _figures(row: ProfileRow | TypeRow) -> tuple[str, str, str, str, int]:
    """What both tables show of a row."""
    return f"{row.ms:.4f}", _percent(row.share), _percent(row.cumulative), f"{row.bytes / 1024:.1f}", row.calls


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def profile_rows(
    plan: Plan,
    seconds: Seconds,
    *,
    first: Seconds | None = None,
    traced: Seconds | None = None,
    machine: Machine | None = None,
) -> Profile:
    """A profile from the (rounds, steps) times of one image.

    ``first`` are the (steps,) times of the very first run; ``traced`` the beginnings and ends of every call, as
    `Program.trace_steps` gives them.
    """
    layers = by_layer(plan)
    by_round = np.stack([seconds[:, [number for number, _ in steps]].sum(axis=1) for steps in layers.values()])
    times = np.median(by_round, axis=1)
    shares, cumulative = _shares(times)
    rows = []
    for (name, steps), *figures in zip(layers.items(), times, shares, cumulative, strict=True):
        began = 0.0 if first is None else 1e3 * float(sum(first[number] for number, _ in steps))
        rows.append(_row(name, steps, seconds, figures, began, plan.threads, machine, _wider(plan)))
    calls = () if traced is None else _calls(plan, traced)
    return Profile(tuple(rows), _types(plan, seconds), calls, len(seconds), plan.threads, memory_of(plan), machine)


def _row(
    name: str,
    numbered: Sequence[tuple[int, Step]],
    seconds: Seconds,
    figures: Sequence[float],
    first_ms: float,
    threads: int,
    machine: Machine | None,
    faster: float,
) -> ProfileRow:
    time, share, cumulative = (float(figure) for figure in figures)
    steps = [step for _, step in numbered]
    slowest, _ = max(numbered, key=lambda each: float(np.median(seconds[:, each[0]])))
    macs, moved, elapsed = sum(step.macs for step in steps), sum(step.bytes for step in steps), max(time, 1e-9)
    of_peak = of_bandwidth = least_ms = None
    if machine is not None:
        bounds = [_bounds(step, machine, threads, faster) for step in steps]
        of_peak = sum(multiplied for multiplied, _ in bounds) / elapsed if macs else None
        of_bandwidth = sum(read for _, read in bounds) / elapsed if moved else None
        least_ms = 1e3 * sum(map(max, bounds)) if macs or moved else None
    return ProfileRow(
        name=name,
        kernel=next(step.kernel.name for number, step in numbered if number == slowest),
        ms=time * 1e3,
        share=share,
        cumulative=cumulative,
        gflops=2 * macs / elapsed / 1e9,
        first_ms=first_ms,
        calls=len(steps),
        bytes=moved,
        of_peak=of_peak,
        of_bandwidth=of_bandwidth,
        least_ms=least_ms,
    )


def least_seconds(plan: Plan, machine: Machine) -> float:
    """What one image takes at the roofline (Williams, Waterman and Patterson, 2009), call by call.

    A call takes its multiply-adds at the machine's peak or its bytes at the bandwidth of the level of memory that holds
    them, whichever is longer. Where a nearer level still has a part of them it may take less.
    """
    return sum(max(_bounds(step, machine, plan.threads, _wider(plan))) for step in plan.steps)


def _bounds(step: Step, machine: Machine, threads: int, faster: float) -> tuple[float, float]:
    """Seconds of a call's multiply-adds at the machine's peak, and of its bytes at its bandwidth."""
    multiplied = 2 * step.macs / (faster * machine.peak_of(threads))
    return multiplied, step.bytes / machine.bandwidth_of(step.bytes, threads)


def _wider(plan: Plan) -> float:
    """A vector's numbers over those of the machine's peak, which was measured in fp32."""
    return plan.target.lanes(plan.element) / plan.target.lanes(F32)


def _types(plan: Plan, seconds: Seconds) -> tuple[TypeRow, ...]:
    """The families, those that take the most time first."""
    families: dict[str, list[tuple[int, Step]]] = {}
    for number, step in enumerate(plan.steps):
        families.setdefault(step.kernel.name.partition("_")[0], []).append((number, step))
    times = {name: float(np.median(seconds[:, [n for n, _ in steps]].sum(axis=1))) for name, steps in families.items()}
    order = sorted(families, key=lambda name: -times[name])
    shares, cumulative = _shares(np.array([times[name] for name in order]))
    rows = []
    for name, share, done in zip(order, shares, cumulative, strict=True):
        steps = [step for _, step in families[name]]
        layers, moved = len({step.name for step in steps}), sum(step.bytes for step in steps)
        rows.append(TypeRow(name, layers, times[name] * 1e3, float(share), float(done), moved, len(steps)))
    return tuple(rows)


def _shares(times: Seconds) -> tuple[Seconds, Seconds]:
    shares = times / max(float(times.sum()), 1e-12)
    return shares, np.cumsum(shares)


def _calls(plan: Plan, traced: Seconds) -> tuple[Call, ...]:
    """The calls of the run in the middle, of those traced, on every thread."""
    lengths = np.nanmax(traced, axis=(1, 2, 3))
    typical = traced[int(np.argsort(lengths, kind="stable")[len(lengths) // 2])]
    return tuple(
        Call(step.name, step.kernel.name, thread, float(begin), float(end - begin), step.macs, step.bytes)
        for step, times in zip(plan.steps, typical, strict=True)
        for thread, (begin, end) in enumerate(times)
        if not np.isnan(begin)
    )
