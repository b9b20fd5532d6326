"""All engines on one network: prepared, loaded, checked, and timed in rounds in which they take turns."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from _peers._cases import Case
from _peers._engine import Engine
from _peers._install import python_of
from _peers._others import barrier_seconds
from _peers._process import Process, WorkerError
from flexgroup.engine._others import Others


@dataclass(frozen=True)
class Cell:
    """What is timed: an engine, a network, a number of threads."""

    engine: Engine
    case: Case
    threads: int

    @property
    def key(self) -> str:
        return f"{self.case.variant}, {self.threads} thread{'s' if self.threads > 1 else ''}"


@dataclass
class Outcome:
    """What a cell gave: nanoseconds a call, the largest difference to PyTorch over its largest output, or why not."""

    samples: list[int] = field(default_factory=list)
    difference: float = 0.0
    failure: str = ""


@dataclass(frozen=True)
class Measured:
    """All outcomes, the versions of what was measured, and the cores that other programs used, in the busiest start."""

    outcomes: dict[Cell, Outcome]
    versions: dict[str, str]
    others: float
    barriers: list[float]  # seconds that two threads take to wait for each other, before every round


@dataclass(frozen=True)
class Plan:
    """How long to measure, and where things are kept."""

    cache: Path
    starts: int
    rounds: int  # of a start
    seconds: float
    say: Callable[[str], None]


def cells_of(engines: Sequence[Engine], cases: Sequence[Case], threads: Sequence[int]) -> list[Cell]:
    """Every network for every engine that gains anything from running it, next to each other by network."""
    return [
        Cell(engine, case, count)
        for case in cases
        for engine in engines
        if (engine.sparse if case.sparsity else engine.dense) and (engine.unaligned or not case.unaligned)
        for count in threads
    ]


def measure(cells: Sequence[Cell], plan: Plan) -> Measured:
    """Prepare, load, check and time everything; what does not work becomes a reason."""
    outcomes = {cell: Outcome() for cell in cells}
    versions = _prepare(outcomes, plan)
    busy: list[float] = []
    barriers: list[float] = []
    for start in range(plan.starts):
        with contextlib.ExitStack() as stack:
            workers = _loaded(outcomes, plan, stack)
            others = Others(worker.number for worker in workers.values())
            for number in range(plan.rounds):
                barriers.append(barrier_seconds())
                plan.say(f"start {start + 1} of {plan.starts}, round {number + 1} of {plan.rounds}")
                _round(outcomes, workers, plan, backwards=number % 2 == 1)
            busy.append(others.cores())
            for cell in _working(outcomes):
                with _noting(outcomes[cell]):
                    given = workers[cell.engine.key, cell.threads].ask("output", key=cell.key)
                    outcomes[cell].difference = max(outcomes[cell].difference, _difference(cell.case, given))
    return Measured(outcomes, versions, max(busy), barriers)


def _loaded(outcomes: dict[Cell, Outcome], plan: Plan, stack: contextlib.ExitStack) -> dict[tuple[str, int], Process]:
    """A new process for every engine and number of threads, with all of its networks, whose outputs are checked."""
    workers: dict[tuple[str, int], Process] = {}
    for cell in _working(outcomes):
        place = cell.engine.key, cell.threads
        if place not in workers:
            workers[place] = stack.enter_context(_start(cell.engine, cell.threads, plan))
        plan.say(f"loading {cell.engine.name}, {cell.key}")
        files = {"case": str(cell.case.folder), "own": str(_own_folder(cell.engine, cell.case))}
        with _noting(outcomes[cell]):
            given = workers[place].ask("load", key=cell.key, threads=cell.threads, **files)
            outcomes[cell].difference = max(outcomes[cell].difference, _difference(cell.case, given))
    return workers


def _round(
    outcomes: dict[Cell, Outcome], workers: dict[tuple[str, int], Process], plan: Plan, *, backwards: bool
) -> None:
    """One turn for everybody; every other round goes backwards, so that nobody always follows the same other."""
    turns = list(_working(outcomes))
    for cell in reversed(turns) if backwards else turns:
        worker = workers[cell.engine.key, cell.threads]
        with _noting(outcomes[cell]):
            outcomes[cell].samples += worker.ask("time", key=cell.key, seconds=plan.seconds)
            if not worker.settle():
                plan.say(f"warning: {cell.engine.name} keeps a core busy after its turn")


def _prepare(outcomes: dict[Cell, Outcome], plan: Plan) -> dict[str, str]:
    """Install every engine and convert every network, each in a process of its own."""
    versions: dict[str, str] = {}
    reasons: dict[str, str] = {}
    for engine in dict.fromkeys(cell.engine for cell in outcomes):
        plan.say(f"preparing {engine.name}")
        try:
            with _start(engine, 1, plan) as worker:
                versions |= worker.ask("versions")
        except WorkerError as error:
            reasons[engine.key] = str(error)
    made: dict[Path, str] = {}
    for cell, outcome in outcomes.items():
        outcome.failure = reasons.get(cell.engine.key, "")
        own = _own_folder(cell.engine, cell.case)
        if outcome.failure or (own / "converted").exists() or not cell.engine.converts:
            continue
        if own not in made:
            plan.say(f"converting for {cell.engine.name}, {cell.case.variant}")
            made[own] = _convert(cell, own, plan)
        outcome.failure = made[own]
    return versions


def _convert(cell: Cell, own: Path, plan: Plan) -> str:
    """Convert one network; the reason if that fails."""
    own.mkdir(parents=True, exist_ok=True)
    try:
        with _start(cell.engine, 1, plan) as worker:
            worker.ask("convert", case=str(cell.case.folder), own=str(own))
    except WorkerError as error:
        return f"does not convert: {error}"
    (own / "converted").touch()
    return ""


def _own_folder(engine: Engine, case: Case) -> Path:
    """Beside the network; another recipe of the engine gets another folder."""
    source = Path(inspect.getfile(type(engine))).read_bytes()
    return case.folder / f"{engine.key}-{hashlib.sha256(source).hexdigest()[:8]}"


def _start(engine: Engine, threads: int, plan: Plan) -> Process:
    python = python_of(engine.environment, plan.cache)
    return Process(engine, python, plan.cache / "logs" / f"{engine.key}.log", threads)


def _working(outcomes: dict[Cell, Outcome]) -> Iterator[Cell]:
    return (cell for cell, outcome in list(outcomes.items()) if not outcome.failure)


@contextlib.contextmanager
def _noting(outcome: Outcome) -> Iterator[None]:
    """Turn an engine's failure into a reason in the table."""
    try:
        yield
    except WorkerError as error:
        outcome.failure = str(error)


def _difference(case: Case, given: list[float]) -> float:
    expected: npt.NDArray[np.float32] = np.load(case.folder / "output.npy").ravel()
    if len(given) != expected.size:
        return float("inf")
    error = float(np.abs(np.asarray(given, np.float64) - expected).max())
    return error / float(np.abs(expected).max()) if np.isfinite(error) else float("inf")
