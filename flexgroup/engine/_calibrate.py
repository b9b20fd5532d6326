"""The constants of the cost model on this machine: a small network is timed step by step, and they are fitted to it.

The network has what the model distinguishes: all kernel forms, heights and sparsities, large images and small ones, few
groups a row and many, weights that no second-level cache holds, depthwise windows, copies. Its steps follow one another
as those of any network do, so that caches and branches are as cold as there. It takes about a second, once a machine.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from flexgroup._errors import FlexgroupError
from flexgroup.engine._cache import content_key, source_digest
from flexgroup.engine._choose import Choice, Layer, channel_rows, panel_for, tile_of
from flexgroup.engine._costs import Costs, default_costs
from flexgroup.engine._estimate import Estimate, estimate_step
from flexgroup.engine._kept import kept
from flexgroup.engine._layout import Layout
from flexgroup.engine._lower import Lowering
from flexgroup.engine._machine import measured_machine
from flexgroup.engine._native import Program
from flexgroup.engine._others import Others
from flexgroup.engine._plan import Plan, Port
from flexgroup.engine._predict import slot_seconds
from flexgroup.engine._steps import StepBuilder
from flexgroup.graph import ir
from flexgroup.kernels import F32, Target, host_target

VARIABLE = "FLEXGROUP_COSTS"
ROUNDS = 250
LARGEST_FACTOR = 8.0  # between a fitted constant and the default
PRIOR = 0.02  # the weight of the defaults, beside the steps': it decides what no step tells
WORST_ERROR = 0.4  # of the logarithms, root mean square: a fit that is worse is none
MOST_OTHERS = 0.2  # cores: what is measured beside more than that is measured again once the machine is quiet
QUIET_LOAD = 0.5  # processes that wanted to run in the last minute, this one among them
BRIEF = 3e-6  # seconds: steps that take less count less

_Rate = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Probe:
    """One layer of the network; ``share`` of the groups of ``rows`` weights are kept.

    ``kind`` is "conv", "depthwise", "pool", "mean" or "linear".
    """

    kind: str
    channels: int  # of the output
    size: int = 1  # of the window
    stride: int = 1
    form: str = ""
    rows: int = 4
    share: float = 1.0
    panel: bool = False  # whether tiles are copied first, where the target has panels
    sweep: int = 0  # rows that go through all tiles before the next do; 0: all
    counts: bool = True  # whether its time does: not that of what finds its memory cold, as the next layers do not


def _conv(
    channels: int,
    form: str,
    rows: int,
    share: float = 1.0,
    size: int = 1,
    stride: int = 1,
    *,
    panel: bool = False,
    sweep: int = 0,
    counts: bool = True,
) -> Probe:
    return Probe("conv", channels, size, stride, form, rows, share, panel, sweep, counts)


INPUT = (16, 112, 112)
PROBES = (
    _conv(64, "dense", 4),  # 112 x 112: images that leave the second-level cache
    Probe("depthwise", 64, 3),
    _conv(64, "strip", 4, 0.1),
    _conv(64, "strip", 4, 0.1, sweep=16),
    _conv(64, "strip", 4, 0.1, panel=True),
    Probe("depthwise", 64, 3, 2),  # 56 x 56
    _conv(192, "strip", 4, 0.15, counts=False),
    _conv(64, "strip", 4, 0.15, counts=False),
    _conv(192, "strip", 4, 0.1),
    _conv(64, "strip", 4, 0.1),
    _conv(192, "strip", 4, 0.1, sweep=16),
    _conv(64, "strip", 4, 0.1, sweep=16),
    _conv(24, "strip", 4, 0.2),
    _conv(64, "strip", 2, 0.1),
    _conv(64, "strip", 4, 0.2, 3),
    _conv(48, "strip", 2, 0.1, 3),
    _conv(64, "dense", 2, 1.0, 3),
    Probe("pool", 64, 3, 2),  # 28 x 28
    _conv(64, "ring", 4, 0.1, 3),
    _conv(96, "strip", 4, 0.2),
    _conv(48, "strip", 2, 0.2),
    _conv(192, "ring", 1, 0.05),
    Probe("depthwise", 192, 3),
    _conv(192, "strip", 2, 0.2),  # all inputs of a tile come from the second-level cache
    _conv(256, "strip", 4, 0.2),
    _conv(256, "strip", 4, 0.1, panel=True),
    _conv(64, "ring", 2, 0.2),
    _conv(48, "strip", 2, 0.2, 3),
    _conv(64, "ring", 1, 0.1, 3),
    _conv(64, "dense", 4, 1.0, 3),
    _conv(48, "dense", 4, 1.0, 3, panel=True),
    _conv(128, "strip", 4, 0.1, 3, 2),  # 14 x 14
    _conv(256, "strip", 4, 0.05),
    _conv(128, "ring", 4, 0.2),
    _conv(256, "channels", 32),
    _conv(128, "channels", 16),
    _conv(128, "strip", 4, 0.05, 3),
    Probe("depthwise", 128, 3),
    _conv(256, "strip", 8, 0.1),
    _conv(160, "strip", 2, 0.05),
    _conv(320, "strip", 2, 0.2),
    _conv(512, "strip", 4, 0.05, panel=True),
    _conv(256, "strip", 4, 0.2, panel=True),
    _conv(512, "strip", 4, 0.1, panel=True),
    _conv(512, "strip", 4, 0.1, panel=True),
    _conv(512, "strip", 4, 0.1),
    _conv(128, "strip", 4, 0.2),
    _conv(128, "strip", 4, 0.2, 3),
    _conv(128, "strip", 4, 0.2, 3, panel=True),
    _conv(256, "strip", 4, 0.05, 3, 2),  # 7 x 7
    _conv(640, "strip", 4, 0.05),
    _conv(256, "ring", 4, 0.2),
    _conv(512, "strip", 4, 0.05, 3),
    _conv(384, "dense", 4),
    _conv(384, "dense", 4, panel=True),
    _conv(256, "channels", 48),
    _conv(256, "strip", 4, 0.2),
    _conv(256, "strip", 4, 0.2, 3),
    _conv(512, "ring", 1, 0.05),
    _conv(1024, "strip", 4, 0.1),
    Probe("mean", 1024),
    Probe("linear", 1000),  # weights that no second-level cache holds, so that all others have to come back too
)


def machine_costs(target: Target) -> Costs:
    """The constants for code that runs here: measured (in about a second) if they never were.

    Those of other targets are `default_costs`; so are all, if the environment variable ``FLEXGROUP_COSTS`` is
    "default". Raises `FlexgroupError` for any other value of it.
    """
    chosen = os.environ.get(VARIABLE, "measured")
    if chosen not in ("measured", "default"):
        raise FlexgroupError(f"{VARIABLE}={chosen!r}; set it to default, or to measured, which it is if it is not set")
    return _measured_costs() if chosen == "measured" and target == host_target() else default_costs(target)


@functools.lru_cache(maxsize=1)
def _measured_costs() -> Costs:
    target, machine = host_target(), measured_machine()
    sources = source_digest("engine", "groups", "kernels")
    key = None if sources is None else content_key([sources, repr(target), repr(machine)])
    return kept("costs", key, lambda: _calibrated(target), Calibration, _is_good).costs


@dataclass(frozen=True)
class Calibration:
    """The constants, and how many cores other programs used while they were measured."""

    costs: Costs
    others: float


def _calibrated(target: Target) -> Calibration:
    others = Others()
    return Calibration(measure_costs(target), others.cores())


def _is_good(found: Calibration) -> bool:
    """Whether the machine was quiet when it was measured, or is not now either, so that it is no use to do it again."""
    if found.others <= MOST_OTHERS:
        return True
    try:
        return os.getloadavg()[0] > QUIET_LOAD
    except OSError:  # this system does not tell
        return True


def measure_costs(target: Target) -> Costs:
    """Time the network of `PROBES` and fit the constants; the defaults, if they cannot be fitted."""
    usual = default_costs(target)
    plan, estimates = probe_plan(target, usual)
    program = Program(plan)
    try:
        image = np.random.default_rng(0).random(INPUT, np.float32)
        result = np.zeros(plan.outputs[0].shape, np.float32)
        seconds = program.time_steps([image.ctypes.data, result.ctypes.data], 2 + ROUNDS)[2:].min(axis=0)
    finally:
        program.close()
    unit = slot_seconds(plan, measured_machine())
    idle = {f"{probe.kind}{number}" for number, probe in enumerate(PROBES) if not probe.counts}
    counted = [number for number, step in enumerate(plan.steps) if step.name not in idle]
    return fitted([estimates[number] for number in counted], seconds[counted] / unit, usual, BRIEF / unit)


def fitted(estimates: Sequence[Estimate], slots: _Rate, usual: Costs, brief: float) -> Costs:
    """The constants at which ``estimates`` come nearest to measured ``slots``, by relative error.

    Levenberg and Marquardt's method on logarithms, at most a factor of `LARGEST_FACTOR` from ``usual``, which all of
    them are drawn to a little. Where the result is nonsense it is ``usual``.
    """
    names = [field.name for field in fields(Costs)]
    start = np.log([getattr(usual, name) for name in names])
    weights = slots / (slots + brief)
    pull = np.sqrt(PRIOR * len(slots) / len(names))

    def costs_at(point: _Rate) -> Costs:
        return Costs(**dict(zip(names, np.exp(point).tolist(), strict=True)))

    def errors(point: _Rate) -> _Rate:
        costs = costs_at(point)
        predicted = np.array([each.slots(costs) for each in estimates])
        return np.concatenate([weights * np.log(predicted / slots), pull * (point - start)])

    point = _least_squares(errors, start, np.log(LARGEST_FACTOR))
    remaining = errors(point)[: len(slots)]
    if not np.sqrt(np.mean(remaining**2)) < WORST_ERROR:
        return usual
    return costs_at(point)


def _least_squares(errors: Callable[[_Rate], _Rate], start: _Rate, reach: float, iterations: int = 25) -> _Rate:
    """The point within ``reach`` of ``start`` (in every coordinate) with the least sum of squares that is found."""
    step = 1e-4
    point, damping = start, 0.1
    now = errors(point)
    for _ in range(iterations):
        slopes = np.stack([(errors(point + step * axis) - now) / step for axis in np.eye(len(point))], axis=1)
        normal = slopes.T @ slopes + damping * np.eye(len(point))
        trial = np.clip(point - np.linalg.solve(normal, slopes.T @ now), start - reach, start + reach)
        then = errors(trial)
        if then @ then < now @ now:
            if np.abs(trial - point).max() < 1e-3:
                return trial
            point, now, damping = trial, then, damping / 2
        else:
            damping *= 3
    return point


def probe_plan(target: Target, costs: Costs) -> tuple[Plan, list[Estimate]]:
    """The network of `PROBES` as a plan, every operation a step, and what each does."""
    graph, forms = _network()

    def chooser(layer: Layer, target: Target, *, sparse: bool, heights: tuple[int, ...]) -> Choice:
        form, rows, copied, sweep = forms[layer.pattern.shape, int(layer.pattern.sum())]
        if form == "channels" and rows not in channel_rows(layer, target):
            form, rows = "dense", 4
        tile = tile_of(layer, form, rows, target)
        panel = panel_for(layer, form, rows, tile, target) if copied else 0
        return Choice(form, rows, tile, 0.0, 0.0, layer.groups(form, rows), 1.0, sparse, panel, sweep)

    layout = Layout(target.lanes(F32), F32.bytes)
    lowering = Lowering(graph, layout, has_depthwise=True)
    lowering.run()
    layout.decide()
    builder = StepBuilder(layout, target, F32, threads=1, sparse=True, inputs=1, chooser=chooser, costs=costs)
    layout.place()
    steps, estimates = [], []
    for operation in lowering.operations:
        steps += builder.plain(operation)
        estimates.append(estimate_step(builder, operation, steps[-1]))
    ports = [(Port(name, graph.shapes[name]),) for name in ("0", graph.outputs[0])]
    constants = builder.constants.block()
    plan = Plan(target, F32, 1, ports[0], ports[1], tuple(steps), constants, builder.arena_bytes, layout.clear_bytes)
    return plan, estimates


def _network() -> tuple[ir.Graph, dict[tuple[tuple[int, ...], int], tuple[str, int, bool, int]]]:
    """The graph of `PROBES`, and by shape and number of weights the kernel of every convolution."""
    rng = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {"0": INPUT}
    nodes = []
    forms: dict[tuple[tuple[int, ...], int], tuple[str, int, bool, int]] = {}
    for number, probe in enumerate(PROBES):
        before, after = str(number), str(number + 1)
        operator = _operator(probe, shapes[before][0], rng)
        nodes.append(ir.Node(f"{probe.kind}{number}", operator, (before,), after))
        shapes[after] = (probe.channels, *(size // probe.stride for size in shapes[before][1:]))
        if probe.kind == "mean":
            shapes[after] = (probe.channels,)
        if isinstance(operator, ir.Conv2d) and operator.groups == 1:
            matrix = operator.weight.reshape(probe.channels, -1)
            key = matrix.shape, int(np.count_nonzero(matrix))
            assert key not in forms, "probes are told apart by their shape and their number of weights"
            forms[key] = probe.form, probe.rows, probe.panel, probe.sweep
    return ir.Graph(("0",), (str(len(PROBES)),), tuple(nodes), shapes), forms


def _operator(
    probe: Probe, channels: int, rng: np.random.Generator
) -> ir.Conv2d | ir.MaxPool2d | ir.GlobalMean | ir.Linear:
    if probe.kind == "pool":
        return ir.MaxPool2d((probe.size, probe.size), (probe.stride, probe.stride), (1, 1, 1, 1))
    if probe.kind == "mean":
        return ir.GlobalMean()
    around = (probe.size // 2,) * 4
    own = 1 if probe.kind == "depthwise" else channels
    columns = own * probe.size**2
    matrix = (
        rng.standard_normal((probe.channels, columns)).astype(np.float32) / np.float32(columns * probe.share) ** 0.5
    )
    if probe.share < 1:
        # Groups of a ring begin anywhere: a grid that starts in the middle of one.
        above = probe.rows // 2 if probe.form == "ring" else 0
        kept = rng.random((probe.channels // probe.rows + 2, columns)) < probe.share
        matrix *= kept.repeat(probe.rows, axis=0)[above : above + probe.channels]
    bias = np.zeros(probe.channels, np.float32)
    if probe.kind == "linear":
        return ir.Linear(matrix, bias)
    weight = matrix.reshape(probe.channels, own, probe.size, probe.size)
    stride, groups = (probe.stride, probe.stride), 1 if probe.kind == "conv" else channels
    return ir.Conv2d(weight, bias, stride, around, groups=groups, clamp=ir.Clamp(0))
