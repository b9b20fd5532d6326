"""The runs as tables: group shapes down, alignments across, means over seeds; and the few sentences they amount to."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from _cifar10_front import equal_time_sentence, front_sentence
from _cifar10_results import (
    COMPARED,
    ENDS,
    Mean,
    Result,
    difference,
    error_of,
    less_error,
    main_budget,
    mean_of,
    measure_of,
    pick,
    recipes_of,
    shapes_of,
)

from flexgroup.report import ResultTable, markdown

NONE = "-"
ROLES = ("aligned", "permuted", "unaligned", "unaligned, permuted")
BUDGETS = {
    "global": "one budget for the network",
    "layer": "the same share in every layer",
    "line": "balanced, the same share in every layer",
    "erdos-renyi": "shares by the layers' sizes",
    "erdos-renyi-line": "balanced, shares by the layers' sizes",
}
ONE_SHOT = {
    "one_shot": "as it is",
    "one_shot_reestimated": "batch norms measured again",
    "one_shot_refit": "kept weights fitted again",
}


def all_tables(results: Sequence[Result], planned: Sequence[str] = ()) -> str:
    """Everything as Markdown: a chapter for each training and budget, dense networks, what was not run."""
    measure = measure_of(results)
    parts = [
        f"Errors are on the {measure} images, in %: mean ± standard deviation (number of seeds). Differences are in "
        f"points, taken seed by seed. The lowest error of a row is bold. *Permuted*: aligned groups after the "
        f"permutation of channels that suits them best; unaligned groups gain by it too.\n"
    ]
    for recipe in recipes_of(results):
        runs = [one for one in results if one.recipe == recipe and not one.is_dense and measure in one.accuracy]
        if not runs:
            continue
        lengths = sorted({one.epochs for one in runs})
        parts.append(f"## Training: {recipe}, {' or '.join(map(str, lengths))} epochs\n")
        parts += _training(runs, measure)
    parts += _one_shot(results)
    parts += _dense(results, measure)
    missing = not_run(results, planned)
    if missing:
        parts.append(f"## Not run\n\n{', '.join(missing)}.\n")
    return "\n".join(parts)


def not_run(results: Sequence[Result], planned: Sequence[str]) -> list[str]:
    """Planned runs without a result, and results without the accuracy that is reported."""
    measure, names = measure_of(results), {one.name for one in results}
    without = [f"{one.name} (no {measure} accuracy)" for one in results if measure not in one.accuracy]
    return [name for name in planned if name not in names] + without


def findings(results: Sequence[Result], recipe: str) -> list[str]:
    """What the runs of one training say about unaligned groups: a sentence or two a sparsity, and about times."""
    measure = measure_of(results)
    budget = main_budget(results, recipe)
    runs = [one for one in results if one.recipe == recipe and one.budget == budget]
    said = []
    for sparsity in _sparsities(runs, shapes_of(runs)):
        parts = [_against(runs, sparsity, *pair, measure) for pair in COMPARED]
        sentences = [f"unaligned groups against {'; against '.join(filter(None, parts))}."] if any(parts) else []
        fine = error_of(pick(runs, "1x1", "aligned", sparsity), measure)
        errors = {
            shape: error.value
            for shape in shapes_of(runs)
            if (error := error_of(pick(runs, shape, "unaligned", sparsity), measure)) is not None
        }
        if fine is not None and errors:
            best = min(errors, key=lambda shape: errors[shape])
            gap = errors[best] - fine.value
            sentences.append(f"The best unaligned groups, {best}, are {gap:+.2f} points from fine-grained.")
        if sentences:
            said.append(f"{_percent(sparsity)} % pruned: {' '.join(sentences)}")
    timed = (equal_time_sentence(results, recipe), front_sentence(results, recipe))
    return [*said, *(sentence for sentence in timed if sentence is not None)]


def timing(results: Sequence[Result]) -> str | None:
    """What the times are of, and how they compare with those of trained weights; None where nothing was timed."""
    if all(one.ms is None for one in results):
        return None
    said = (
        "Times are of stand-ins, all timed together: the pretrained network, pruned to each run's shape of groups with "
        "as many weights in each layer as the run kept."
    )
    shares = sorted(one.ms / one.ms_trained for one in results if one.ms is not None and one.ms_trained is not None)
    if not shares:
        return said
    low, high, middle = shares[0], shares[-1], statistics.median(shares)
    return (
        f"{said} Where the trained weights were at hand too ({len(shares)} runs) a stand-in took {low:.2f} to "
        f"{high:.2f} times as long as they did, {middle:.2f} in the median."
    )


def _against(runs: Sequence[Result], sparsity: float, ours: str, other: str, measure: str) -> str | None:
    """In how many shapes unaligned groups have less error than the others, and how much."""
    gaps = {shape: _gap(runs, shape, sparsity, ours, other, measure) for shape in shapes_of(runs)}
    found = {shape: gap.value for shape, gap in gaps.items() if gap is not None}
    if not found:
        return None
    ends = dict.fromkeys(choose(found, key=lambda shape: found[shape]) for choose in (min, max))
    listed = ", ".join(f"{shape} {found[shape]:+.2f}" for shape in ends)
    return f"{COMPARED[ours, other]}: {less_error(found)} ({listed})"


def _training(runs: Sequence[Result], measure: str) -> list[str]:
    parts = []
    for budget in sorted({one.budget for one in runs if one.groups not in ENDS}):
        chosen = [one for one in runs if one.budget == budget]
        for sparsity in _sparsities(chosen, shapes_of(chosen)):
            parts.append(f"### {_percent(sparsity)} % pruned, {BUDGETS.get(budget, budget)}\n")
            parts.append(markdown(_shapes_table(chosen, sparsity, measure)))
    ends = [one for one in runs if one.groups in ENDS]
    if ends:
        parts.append("### The ends of the scale\n")
        parts.append(markdown(_ends_table(ends, measure)))
    return parts


def _shapes_table(runs: Sequence[Result], sparsity: float, measure: str) -> ResultTable:
    columns = ("groups", *ROLES, "unaligned - aligned", "unaligned - permuted")
    columns += ("magnitude kept: aligned", "unaligned", "ms: aligned", "unaligned")
    rows = []
    for shape in shapes_of(runs):
        found = {role: pick(runs, shape, role, sparsity) for role in ROLES}
        if not any(found.values()):
            continue
        errors = {role: error_of(ones, measure) for role, ones in found.items()}
        gaps = (_gap(runs, shape, sparsity, "unaligned", other, measure) for other in ("aligned", "permuted"))
        pair = (found["aligned"], found["unaligned"])
        kept = (mean_of(one.kept_magnitude for one in ones if one.kept_magnitude is not None) for ones in pair)
        rows.append(
            (
                shape,
                *_bold_best(list(errors.values())),
                *(NONE if gap is None else gap.text(sign=True) for gap in gaps),
                *(NONE if mean is None else f"{mean.value:.3f}" for mean in kept),
                *(_ms(ones) for ones in pair),
            )
        )
    return ResultTable(columns, tuple(rows))


def _ends_table(runs: Sequence[Result], measure: str) -> ResultTable:
    sparsities = sorted({one.sparsity for one in runs})
    columns = ("pattern", *(text for s in sparsities for text in (f"{_percent(s)} %: error", "ms")))
    rows = []
    for groups, name in ENDS.items():
        found = [pick(runs, groups, "aligned", sparsity) for sparsity in sparsities]
        if any(found):
            rows.append((name, *(text for ones in found for text in (_text(error_of(ones, measure)), _ms(ones)))))
    return ResultTable(columns, tuple(rows))


def _one_shot(results: Sequence[Result]) -> list[str]:
    """Before any training, and so the same for every one; on validation images, because the test set is read once."""
    kinds = [kind for kind in ONE_SHOT if any(kind in one.accuracy for one in results)]
    if not kinds:
        return []
    recipe = recipes_of(results)[0]
    budget = main_budget(results, recipe)
    runs = [one for one in results if any(kind in one.accuracy for kind in kinds)]
    runs = [one for one in runs if (one.recipe, one.budget) == (recipe, budget)]
    parts = ["## One-shot: pruned, not trained\n", "Errors are on the validation images, in %.\n"]
    for sparsity in _sparsities(runs, [*ENDS, *shapes_of(runs)]):
        rows = []
        for shape in (*ENDS, *shapes_of(runs)):
            found = [pick(runs, shape, role, sparsity) for role in ROLES]
            if any(found):
                errors = (_bold_best([error_of(ones, kind) for ones in found]) for kind in kinds)
                rows.append((ENDS.get(shape, shape), *(text for one in errors for text in one)))
        heads = (f"{ONE_SHOT[kind]}: aligned" for kind in kinds)
        columns = ("groups", *(text for head in heads for text in (head, *ROLES[1:])))
        parts.append(f"### {_percent(sparsity)} % pruned\n")
        parts.append(markdown(ResultTable(columns, tuple(rows))))
    return parts


def _dense(results: Sequence[Result], measure: str) -> list[str]:
    names = sorted({(one.network, one.recipe) for one in results if one.is_dense})
    rows = []
    for network, recipe in names:
        found = [one for one in results if one.is_dense and (one.network, one.recipe) == (network, recipe)]
        macs = next((f"{one.macs / 1e6:.2f}" for one in found if one.macs), NONE)
        rows.append((network, recipe, str(found[0].epochs), _text(error_of(found, measure)), macs, _ms(found)))
    columns = ("network", "training", "epochs", "error", "million MACs", "ms")
    return ["## Dense networks\n", markdown(ResultTable(columns, tuple(rows)))] if rows else []


def _gap(runs: Sequence[Result], shape: str, sparsity: float, ours: str, other: str, measure: str) -> Mean | None:
    return difference(pick(runs, shape, ours, sparsity), pick(runs, shape, other, sparsity), measure)


def _sparsities(runs: Sequence[Result], shapes: Sequence[str]) -> list[float]:
    return sorted({one.sparsity for one in runs if one.groups in shapes}, reverse=True)


def _bold_best(means: Sequence[Mean | None]) -> list[str]:
    known = [mean.value for mean in means if mean is not None]
    return [
        f"**{_text(mean)}**" if mean is not None and min(known) == mean.value < max(known) else _text(mean)
        for mean in means
    ]


def _text(mean: Mean | None) -> str:
    return NONE if mean is None else mean.text()


def _ms(results: Sequence[Result]) -> str:
    mean = mean_of(one.ms for one in results if one.ms is not None)
    return NONE if mean is None else f"{mean.value:.4f}"


def _percent(sparsity: float) -> str:
    return f"{100 * sparsity:g}"
