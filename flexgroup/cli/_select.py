"""``flexgroup select``: how much of a network each pattern and each selection method keeps, and how long they take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer
from rich.markup import escape
from rich.table import Table

from flexgroup._errors import FlexgroupError
from flexgroup.cli._network import load_network
from flexgroup.cli._options import JsonOption, ModelOption, WeightsOption
from flexgroup.cli._output import Progress, print_json, stdout_console, working, writing

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from flexgroup.groups import Groups

    Scores: TypeAlias = Mapping[str, npt.NDArray[np.floating[Any]]]

PUBLISHED = ("bed", "greedy", "dp")
SHOWN = ("exact", "bed", "greedy")  # by default: the dynamic programme can take minutes
PLOTTED = (0.80, 0.85, 0.90, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98)
MOST_DECISIONS = 4 << 30  # of the dynamic programme, a byte each


@dataclass(frozen=True)
class Choice:
    """One pattern, chosen by one method.

    ``score`` is the sum of the |weight| kept, ``share`` that of all weights' |weight|, ``relative`` that of what
    fine-grained pruning keeps at this sparsity. ``gap`` is how far the score may be from the pattern's best, as a
    share of it; 0 where the method is exact.
    """

    pattern: str
    method: str
    groups: int
    score: float
    share: float
    relative: float
    gap: float
    seconds: float


@dataclass(frozen=True)
class Comparison:
    """All choices at one sparsity, on the layers that pruning targets by default."""

    model: str
    weights: str | None
    layers: int
    size: int
    sparsity: float
    budget: str
    machine: dict[str, Any]
    choices: tuple[Choice, ...]


def select(
    model: ModelOption,
    weights: WeightsOption = None,
    groups: Annotated[str, typer.Option("--groups", help="Group size, rows x columns.")] = "4x1",
    unaligned: Annotated[
        str, typer.Option("--unaligned", help="Axis along which groups start anywhere: rows, cols, free or none.")
    ] = "rows",
    sparsity: Annotated[float, typer.Option("--sparsity", help="Share of the weights to prune, 0 to 1.")] = 0.9,
    budget: Annotated[str, typer.Option("--budget", help="Spread over: global, layer or line.")] = "global",
    methods: Annotated[
        str, typer.Option("--methods", help="Published ones too: bed,greedy,dp (slow); exact is always there.")
    ] = "",
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw kept score against sparsity, as .svg or .png.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare patterns and selection methods: how much |weight| each keeps, and how long it takes.

    Without weights, the network's own random ones are used. Nothing is pruned.

    \b
    Example:
      flexgroup select --model resnet20 --weights W.safetensors
          --groups 4x1 --unaligned rows --sparsity 0.9
    """
    progress = Progress(shown=True)
    with working(progress):
        result = run_comparison(
            model,
            weights,
            groups=groups,
            unaligned=None if unaligned == "none" else unaligned,
            sparsity=sparsity,
            budget=budget,
            methods=tuple(name.strip() for name in methods.split(",")) if methods else None,
            plot=plot,
            progress=progress,
        )
    if as_json:
        print_json(asdict(result) | {"plot": None if plot is None else str(plot)})
    else:
        _print(result)
        if plot is not None:
            print(plot)


def run_comparison(
    model: str,
    weights: Path | None,
    *,
    groups: str = "4x1",
    unaligned: str | None = "rows",
    sparsity: float = 0.9,
    budget: str = "global",
    methods: Sequence[str] | None = None,
    plot: Path | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Compare on network ``model``; with ``plot``, also write a picture over several sparsities to that file.

    ``methods`` None takes those that the pattern and the budget allow, without the dynamic programme. Raises
    `FlexgroupError` for wrong input; then nothing is written.
    """
    from flexgroup.cli._select_plot import write_plot
    from flexgroup.groups import Groups
    from flexgroup.report import check_picture, this_machine

    progress = progress or Progress()
    pattern = Groups(groups, unaligned)
    chosen = _methods(pattern, budget, methods)
    _check_sparsity(sparsity, pattern)
    if plot is not None:
        check_picture(plot, "--plot")
        if pattern.n_of_m is not None:
            raise FlexgroupError(f"--plot: groups of {groups} have one sparsity only; leave it out")
    scores = _scores(model, weights)
    progress.stage("warming up")
    _warm_up(pattern, budget, chosen)
    progress.stage("choosing groups")
    choices = tuple(compare(scores, pattern, sparsity, budget, chosen))
    if plot is not None:
        quick = [name for name in chosen if name != "dp"]
        points = {}
        progress.stage("choosing groups for the plot")
        for done, share in enumerate(PLOTTED):
            progress.step(done, len(PLOTTED))
            points[share] = tuple(compare(scores, pattern, share, budget, quick))
        with writing("--plot", plot):
            write_plot(plot, points, f"{model}, budget {budget}" + ("" if weights else ", random weights"))
    size = sum(matrix.size for matrix in scores.values())
    shown = None if weights is None else str(weights)
    machine = asdict(this_machine(("numpy", "numba")))
    return Comparison(model, shown, len(scores), size, sparsity, budget, machine, choices)


def compare(
    scores: Scores, pattern: Groups, sparsity: float, budget: str, methods: Sequence[str] = SHOWN
) -> Iterator[Choice]:
    """Fine-grained pruning, the aligned ``pattern``, and ``pattern`` itself by each of ``methods``, timed once each.

    ``scores`` maps layer names to (rows, columns) arrays. Raises `FlexgroupError` as `flexgroup.select`.
    """
    from flexgroup.groups import select as select_groups

    total = float(sum(matrix.sum(dtype="float64") for matrix in scores.values()))
    keep = 1 - sparsity
    fine = 0.0

    def choice(pattern: Groups, method: str, kept: Mapping[str, int], score: float, gap: float, began: float) -> Choice:
        seconds = time.perf_counter() - began
        share, relative = (score / whole if whole else 1.0 for whole in (total, fine))
        return Choice(_label(pattern), method, sum(kept.values()), score, share, relative, gap, seconds)

    for own in _patterns(pattern):
        began = time.perf_counter()
        found = select_groups(scores, own, keep=keep, budget=budget)
        fine = fine or found.score
        yield choice(own, "search" if own.unaligned == "free" else "exact", found.kept, found.score, found.gap, began)
    if pattern.unaligned not in ("rows", "cols"):
        return
    for method in methods:
        if method != "exact":
            run = _published(scores, pattern, budget, method, found.kept)
            began = time.perf_counter()
            kept, score = run()
            gap = max(0.0, 1 - score / found.score) if found.score else 0.0
            yield choice(pattern, method, kept, score, gap, began)


def _patterns(pattern: Groups) -> list[Groups]:
    """What is compared, in the order of the table; the exact optimum of ``pattern`` is last."""
    from flexgroup.groups import Groups

    fine = Groups("1x1")
    axes = {None: (None,), "free": (None, "rows", "cols", "free")}.get(pattern.unaligned, (None, pattern.unaligned))
    return [fine, *(own for own in (Groups(pattern.size, axis) for axis in axes) if own != fine)]


def _label(groups: Groups) -> str:
    return "fine-grained" if groups.size == "1x1" and groups.unaligned is None else str(groups)


def _published(
    scores: Scores, pattern: Groups, budget: str, method: str, kept: Mapping[str, int]
) -> Callable[[], tuple[dict[str, int], float]]:
    """A call that chooses as many groups as ``kept``, over all layers or in each; lines are laid out beforehand."""
    from flexgroup.groups import reference

    run = {"dp": reference.dynamic_programme, "bed": reference.bed, "greedy": reference.greedy}[method]
    window = pattern.rows if pattern.unaligned == "rows" else pattern.cols
    lines = {name: _lines(matrix, pattern) for name, matrix in scores.items()}
    together = [list(lines)] if budget == "global" else [[name] for name in lines]
    if method == "dp":
        for names in together:
            decisions = sum(lines[name].size for name in names) * sum(kept[name] for name in names)
            if decisions > MOST_DECISIONS:
                where = "all layers together" if budget == "global" else f"layer {names[0]!r}"
                raise FlexgroupError(
                    f"--methods dp: {where} would take {decisions / (1 << 30):.1f} GiB, one byte for each weight and "
                    f"group; use --budget layer, a higher --sparsity, or leave dp out"
                )

    def choose() -> tuple[dict[str, int], float]:
        count, score = dict.fromkeys(lines, 0), 0.0
        for names in together:
            masks = run([lines[name] for name in names], window, sum(kept[name] for name in names))
            for name, mask in zip(names, masks, strict=True):
                count[name] = int(mask.sum()) // window
                score += float(lines[name][mask].sum())
        return count, score

    return choose


def _lines(matrix: npt.NDArray[np.floating[Any]], pattern: Groups) -> npt.NDArray[np.float64]:
    """The (positions, count) entries of a layer's lines: sums over the width of a group."""
    import numpy as np

    axis, width = (1, pattern.cols) if pattern.unaligned == "rows" else (0, pattern.rows)
    sums = np.add.reduceat(matrix, np.arange(0, matrix.shape[axis], width), axis=axis, dtype=np.float64)
    return np.ascontiguousarray(sums if axis else sums.T)


def _methods(pattern: Groups, budget: str, methods: Sequence[str] | None) -> tuple[str, ...]:
    """The methods to show; raises `FlexgroupError` for words that are unknown or do not go together."""
    from flexgroup.groups import BUDGETS

    if budget not in BUDGETS or budget == "band":
        raise FlexgroupError(f"--budget {budget!r} is unknown; choose global, layer or line")
    known = ("exact", *PUBLISHED)
    unknown = [name for name in methods or () if name not in known]
    if unknown:
        raise FlexgroupError(f"--methods {unknown[0]!r} is unknown; choose from {', '.join(known)}")
    # They choose windows of lines, with no more than a number of windows to meet.
    can = pattern.unaligned in ("rows", "cols") and not pattern.is_symbolic and budget in ("global", "layer")
    published = [name for name in methods or () if name != "exact"]
    if published and not can:
        raise FlexgroupError(
            f"--methods {published[0]} needs groups of numbers, --unaligned rows or cols, and --budget global or "
            f"layer; got {pattern}, {budget}"
        )
    return tuple(dict.fromkeys(methods)) if methods else SHOWN if can else ("exact",)


def _check_sparsity(sparsity: float, pattern: Groups) -> None:
    if not 0 <= sparsity < 1:
        raise FlexgroupError(f"--sparsity {sparsity:g} is not a share of the weights; give 0 or more and below 1")
    if pattern.n_of_m is not None:
        n, m = pattern.n_of_m
        if abs(sparsity - (1 - n / m)) > 1e-6:
            raise FlexgroupError(f"groups of {pattern.size} prune {1 - n / m:g} of the weights: give --sparsity so")


def _scores(model: str, weights: Path | None) -> dict[str, npt.NDArray[np.floating[Any]]]:
    """|weight| of every targeted layer; each convolution group of a grouped convolution is a layer of its own."""
    import torch

    from flexgroup import zoo
    from flexgroup.pruning import weight_matrices

    if weights is None and model in zoo.MODELS:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = zoo.build(model)
    else:
        network = load_network(model, weights)
    scores = {}
    for name, matrix in weight_matrices(network).items():
        parts = int(getattr(network.get_submodule(name), "groups", 1))
        wide = matrix.abs().to(torch.float64 if matrix.dtype == torch.float64 else torch.float32).cpu()
        for number, part in enumerate(wide.reshape(parts, -1, wide.shape[1])):
            scores[name if parts == 1 else f"{name}[{number}]"] = part.contiguous().numpy()
    return scores


def _warm_up(pattern: Groups, budget: str, methods: Sequence[str]) -> None:
    """Choose on small matrices, one of them all ties, so that compiling is not part of any time shown."""
    import numpy as np

    shape = tuple(16 if text in "MK" else 4 * int(text) for text in pattern.size.replace(":", "x").split("x"))
    matrix = np.random.default_rng(0).random(shape, dtype=np.float32)
    sparsity = 0.75 if pattern.n_of_m is None else 1 - pattern.n_of_m[0] / pattern.n_of_m[1]
    for scores in (matrix, np.ones_like(matrix)):
        for _ in compare({"": scores}, pattern, sparsity, budget, methods):
            pass


def _print(result: Comparison) -> None:
    of = "layer" if result.layers == 1 else "layers"
    table = Table(
        title=f"{escape(result.model)}{'' if result.weights else ', random weights'}: {result.size:,} weights in "
        f"{result.layers} {of}, {100 * result.sparsity:g} % pruned, budget {result.budget}",
        caption="kept: of all |weight|; relative: to fine-grained pruning; gap: to the pattern's best, at most",
    )
    for heading in ("pattern", "method", "groups", "kept", "relative", "gap", "ms"):
        table.add_column(heading, justify="left" if heading in ("pattern", "method") else "right", no_wrap=True)
    for row in result.choices:
        gap = "0" if row.gap == 0 else f"{100 * row.gap:.3f} %"
        shares = (f"{100 * row.share:.2f} %", f"{100 * row.relative:.2f} %")
        table.add_row(row.pattern, row.method, f"{row.groups:,}", *shares, gap, f"{1000 * row.seconds:.1f}")
    console = stdout_console()
    console.print(table)
    console.print(f"{result.machine['cpu']}, {result.machine['cores']} cores", highlight=False)
