"""The tables of `peers.py`: one a network, and the fastest peers beside ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rich.console import Console
from rich.table import Table

OURS = "flexgroup"
WIDTH = 155
DENSE_LIMIT = 1.3  # of the fastest dense peer's time
TARGETS = {  # network: {share of zeros: how many times as fast as the fastest fp32 peer of any kind}
    "resnet50": {0.8: 2.5, 0.95: 4.0},
    "mobilenet_v1": {0.8: 2.0, 0.95: 2.5},
    "mobilenet_v2": {0.8: 1.6, 0.95: 2.0},
    "resnet20": {0.8: 1.6, 0.95: 2.0},
}


@dataclass(frozen=True)
class Row:
    """One engine on one network with one number of threads; ``difference`` is relative to the largest output."""

    network: str
    engine: str
    precision: str
    sparsity: float
    unaligned: bool
    threads: int
    ms: float
    p10_ms: float
    p90_ms: float
    calls: int
    difference: float
    right: bool


@dataclass(frozen=True)
class Failure:
    """What could not be measured, and why."""

    network: str
    engine: str
    variant: str
    threads: int
    reason: str


@dataclass(frozen=True)
class Verdict:
    """Ours beside the fastest peer. ``ratio`` is peer / ours; it is to be at least ``target``, if there is one.

    Ours is the slower of aligned and unaligned groups.
    """

    network: str
    sparsity: float
    threads: int
    peer: str
    peer_ms: float
    ours_ms: float
    ratio: float
    target: float | None

    @property
    def met(self) -> bool | None:
        return None if self.target is None else self.ratio >= self.target


def verdicts(rows: Sequence[Row], *, with_targets: bool = True) -> list[Verdict]:
    """Against the fastest fp32 peer at every share of zeros, running the dense network or the pruned one, and bf16.

    Targets are for groups of four rows.
    """
    found: list[Verdict] = []
    for network in dict.fromkeys(row.network for row in rows):
        here = [row for row in rows if row.network == network and row.right]
        for sparsity in sorted({row.sparsity for row in here}):
            for threads in sorted({row.threads for row in here}):
                found += _verdicts_at(network, sparsity, threads, [row for row in here if row.threads == threads])
    return found if with_targets else [replace(verdict, target=None) for verdict in found]


def _verdicts_at(network: str, sparsity: float, threads: int, rows: list[Row]) -> Iterator[Verdict]:
    ours = [row.ms for row in rows if row.engine == OURS and row.sparsity == sparsity]
    if not ours:
        return
    for precision in ("fp32", "bf16"):
        peers = [row for row in rows if row.engine != OURS and row.precision == precision]
        peers = [row for row in peers if row.sparsity in (0, sparsity)]
        if peers:
            best, mine = min(peers, key=lambda row: row.ms), max(ours)
            target = _target(network, sparsity, precision)
            name = best.engine + (" (dense)" if sparsity and not best.sparsity else "")
            yield Verdict(network, sparsity, threads, name, best.ms, mine, best.ms / mine, target)


def _target(network: str, sparsity: float, precision: str) -> float | None:
    if precision == "bf16":
        return 1.0 if sparsity == 0.95 else None
    if not sparsity:
        return 1 / DENSE_LIMIT
    return TARGETS.get(network, {}).get(sparsity)


def wide_console() -> Console:
    """A terminal, or a file: at least as wide as the tables."""
    console = Console()
    return console if console.width >= WIDTH else Console(width=WIDTH)


def show_network(console: Console, network: str, rows: Sequence[Row], failures: Sequence[Failure]) -> None:
    """All engines on one network, and what could not be measured; "/ ours" compares with our aligned groups."""
    threads = sorted({row.threads for row in rows})
    table = Table(title=f"{network}, batch 1")
    table.add_column("engine", no_wrap=True)
    table.add_column("network", no_wrap=True)
    for count in threads:
        words = f"{count} thread{'s' if count > 1 else ''}"
        table.add_column(f"ms, {words}", justify="right", no_wrap=True)
        table.add_column("p10 to p90", justify="right", no_wrap=True)
        table.add_column("/ ours", justify="right", no_wrap=True)
    table.add_column("max difference", justify="right", no_wrap=True)
    found = {(row.engine, row.sparsity, row.unaligned, row.threads): row for row in rows}
    before = None
    for engine, sparsity, unaligned in dict.fromkeys((row.engine, row.sparsity, row.unaligned) for row in rows):
        if before not in (None, sparsity):
            table.add_section()
        before = sparsity
        cells = [engine, variant_name(sparsity, unaligned)]
        mine = [found.get((engine, sparsity, unaligned, count)) for count in threads]
        for row in mine:
            ours = row and found.get((OURS, sparsity, False, row.threads))
            cells += [
                f"{row.ms:.3f}" if row else "",
                f"{row.p10_ms:.3f} to {row.p90_ms:.3f}" if row else "",
                f"{row.ms / ours.ms:.2f}" if row and ours else "",
            ]
        there = [row for row in mine if row]
        cells.append(f"{max(row.difference for row in there):.1e}" + ("" if all(r.right for r in there) else " WRONG"))
        table.add_row(*cells, style="bold" if engine == OURS else "")
    console.print(table)
    reasons: dict[tuple[str, str], list[str]] = {}
    for failure in failures:
        reasons.setdefault((failure.engine, failure.reason), []).append(f"{failure.variant} x{failure.threads}")
    for (engine, reason), where in reasons.items():
        console.print(f"not measured: {engine} ({', '.join(where)}): {reason}", highlight=False, markup=False)


def variant_name(sparsity: float, unaligned: bool) -> str:
    """How tables call a network with this share of zeros."""
    if not sparsity:
        return "dense"
    return f"{100 * sparsity:g} %" + (" unaligned" if unaligned else "")


def show_verdicts(console: Console, found: Sequence[Verdict]) -> None:
    """The fastest peers beside ours, with the speed to reach."""
    table = Table(title="the fastest peer of any kind beside ours (the slower of aligned and unaligned groups)")
    table.add_column("network", no_wrap=True)
    for column in ("zeros", "threads", "fastest peer", "its ms", "ours, ms", "times as fast", "to reach", ""):
        table.add_column(column, justify="left" if column == "fastest peer" else "right", no_wrap=True)
    for verdict in found:
        target = "" if verdict.target is None else f"{verdict.target:.2f}"
        met = {None: "", True: "yes", False: "NO"}[verdict.met]
        figures = (f"{verdict.peer_ms:.3f}", f"{verdict.ours_ms:.3f}", f"{verdict.ratio:.2f}", target, met)
        zeros = variant_name(verdict.sparsity, False)
        table.add_row(verdict.network, zeros, str(verdict.threads), verdict.peer, *figures)
    console.print(table)
