"""What a report shows, as plain values that survive a round trip through JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from flexgroup._errors import FlexgroupError
from flexgroup.report._timing import Timing

SCHEMA = "flexgroup-report/1"


def engine_label(engine: str, threads: int) -> str:
    """The name under which a `Run` files a latency: ``"ONNX Runtime, 1 thread"``."""
    return f"{engine}, {threads} thread{'s' if threads != 1 else ''}"


@dataclass(frozen=True)
class Run:
    """One network: how it was pruned, how well it classifies, how long one image takes.

    ``sparsity_asked`` and ``sparsity`` (reached) are fractions of the targeted weights that are zero.
    ``accuracy`` is in % of the test images, run by PyTorch; ``engine_accuracy`` is the same by the compiled
    network, and ``max_difference`` the largest difference between their logits. ``one_shot_accuracy`` is that
    before any training of the pruned network, and ``magnitude_kept`` the share (0..1) of the dense network's
    total |weight| that its groups held then. ``latency`` is keyed by `engine_label`; ``file`` is where the
    weights are, relative to the report.
    """

    pattern: str
    sparsity_asked: float
    sparsity: float
    accuracy: float
    latency: Mapping[str, Timing] = field(default_factory=dict)
    engine_accuracy: float | None = None
    max_difference: float | None = None
    one_shot_accuracy: float | None = None
    magnitude_kept: float | None = None
    file: str | None = None


@dataclass(frozen=True)
class LayerTime:
    """One step of a compiled network: its layer, kernel, milliseconds, share of the total (0..1), GFLOP/s."""

    layer: str
    kernel: str
    ms: float
    share: float
    gflops: float | None = None


@dataclass(frozen=True)
class Profile:
    """The per-layer times of one network, labelled as the report shows it (``"dense"``)."""

    label: str
    rows: tuple[LayerTime, ...]


@dataclass(frozen=True)
class MaskPicture:
    """A crop of one layer's mask: one string for each row, ``#`` where a weight is kept and ``.`` where not.

    ``group_rows`` is the height of its groups. The crop begins at row 0 and column ``first_column`` of a
    weight matrix of ``shape`` = (rows, columns).
    """

    pattern: str
    layer: str
    shape: tuple[int, int]
    group_rows: int
    first_column: int
    rows: tuple[str, ...]


@dataclass(frozen=True)
class Machine:
    """The class of machine a measurement comes from, and the versions of what ran; never its name."""

    cpu: str
    cores: int
    system: str
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Report:
    """Everything on one page. ``engine`` and ``baselines`` are `engine_label` keys into the latencies.

    ``dense`` is the network before pruning, with a latency for ``engine`` (dense code) and every baseline.
    The first baseline that ``dense`` has is the one that the headline compares with. ``featured`` is the
    pattern that the headline speaks of.
    """

    title: str
    model: str
    data: str
    test_images: int
    machine: Machine
    engine: str
    baselines: tuple[str, ...]
    dense: Run
    runs: tuple[Run, ...]
    featured: str = ""
    profiles: tuple[Profile, ...] = ()
    masks: tuple[MaskPicture, ...] = ()
    method: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    created: str = ""

    @property
    def patterns(self) -> tuple[str, ...]:
        """The patterns of the runs, in order of first appearance."""
        return tuple(dict.fromkeys(run.pattern for run in self.runs))

    @property
    def references(self) -> tuple[str, ...]:
        """The baselines that were really measured."""
        return tuple(name for name in self.baselines if name in self.dense.latency)

    def speedup(self, run: Run, over: str) -> float | None:
        """How many times faster ``run`` is than the dense network in ``over``; None if unmeasured."""
        ours, theirs = run.latency.get(self.engine), self.dense.latency.get(over)
        return theirs.median_ms / ours.median_ms if ours and theirs else None

    def points(self, run: Run) -> float:
        """Accuracy of ``run`` less that of the dense network, in percentage points."""
        return run.accuracy - self.dense.accuracy


def to_json(report: Report) -> str:
    """The report as one JSON document; `from_json` gives it back."""
    return json.dumps({"schema": SCHEMA, **asdict(report)}, indent=2, allow_nan=False) + "\n"


def from_json(text: str) -> Report:
    """Read what `to_json` wrote. Raises `FlexgroupError` for anything else, naming what is wrong."""
    try:
        document = json.loads(text)
    except ValueError as error:
        raise FlexgroupError(f"results are not JSON: {error}; make them again with flexgroup demo") from error
    schema = document.pop("schema", None) if isinstance(document, dict) else None
    if schema != SCHEMA:
        raise FlexgroupError(
            f"results have schema {schema!r}, this version reads {SCHEMA!r}; make them again with flexgroup demo"
        )
    try:
        return _report(document)
    except (KeyError, TypeError, AttributeError) as error:
        raise FlexgroupError(
            f"results do not fit schema {SCHEMA!r}: {type(error).__name__}: {error}; "
            "make them again with flexgroup demo"
        ) from error


def _report(values: dict[str, Any]) -> Report:
    parts: dict[str, Any] = {
        "machine": Machine(**values.pop("machine")),
        "dense": _run(values.pop("dense")),
        "runs": tuple(_run(run) for run in values.pop("runs")),
        "profiles": tuple(
            Profile(label=p["label"], rows=tuple(LayerTime(**row) for row in p["rows"])) for p in values.pop("profiles")
        ),
        "masks": tuple(
            MaskPicture(**{**mask, "shape": tuple(mask["shape"]), "rows": tuple(mask["rows"])})
            for mask in values.pop("masks")
        ),
    }
    lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    return Report(**{**values, **lists, **parts})


def _run(values: dict[str, Any]) -> Run:
    latency = {engine: Timing(**timing) for engine, timing in values.pop("latency").items()}
    return Run(latency=latency, **values)
