"""``flexgroup prune --speedup`` and ``--latency-ms``: a budget in time, found before pruning and checked after it."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from flexgroup._errors import FlexgroupError
from flexgroup.cli._options import check_at_least
from flexgroup.cli._run_folder import LATENCY

if TYPE_CHECKING:
    from torch import Tensor, nn

    from flexgroup.cli._prune_config import PruneConfig
    from flexgroup.pruning import LatencyBudget

AGREES = 0.15  # of the measured latency: a prediction further away is remarked upon
DEFAULT_SPARSITY = 0.9

SparsityOption: TypeAlias = Annotated[
    float | None,
    typer.Option("--sparsity", help="Share of the weights to prune, 0 to 1.", show_default=str(DEFAULT_SPARSITY)),
]
SpeedupOption: TypeAlias = Annotated[
    float | None, typer.Option("--speedup", help="Instead of --sparsity: so many times faster than dense code.")
]
LatencyOption: TypeAlias = Annotated[
    float | None, typer.Option("--latency-ms", help="Instead of --sparsity: milliseconds of one image, compiled.")
]
LatencyThreadsOption: TypeAlias = Annotated[
    int, typer.Option("--latency-threads", help="Threads that the latency or speed-up is meant for.")
]


def check_time(sparsity: float | None, speedup: float | None, latency_ms: float | None, budget: str) -> None:
    """Raise `FlexgroupError` unless at most one says how far to prune, and the budget is global if it is a time."""
    given = {"--sparsity": sparsity, "--speedup": speedup, "--latency-ms": latency_ms}
    named = [option for option, value in given.items() if value is not None]
    if len(named) > 1:
        raise FlexgroupError(f"{' and '.join(named)} each say how far to prune; give one")
    if speedup is not None:
        check_at_least(speedup, 1, "--speedup")
    if latency_ms is not None and not 0 < latency_ms < float("inf"):
        raise FlexgroupError(f"--latency-ms {latency_ms:g} is not a time; give milliseconds above 0, such as 0.1")
    if (speedup is not None or latency_ms is not None) and budget != "global":
        raise FlexgroupError(
            f"--budget {budget} fixes what each layer keeps, which leaves nothing to a latency; leave it out"
        )


def default_sparsity(sparsity: float | None, speedup: float | None, latency_ms: float | None) -> float | None:
    """The sparsity that is asked for; without one, and without a time, the usual one."""
    return DEFAULT_SPARSITY if (sparsity, speedup, latency_ms) == (None, None, None) else sparsity


def find_budget(
    config: PruneConfig, network: nn.Module, image_shape: Sequence[int], partial: Path | None, *, is_main: bool
) -> LatencyBudget | None:
    """The budget in time for one image of ``image_shape``, None if neither a speed-up nor a latency is asked for.

    Of several processes the first one measures, so that all have the same. A run that goes on in ``partial`` has the
    record of its budget there: nothing is measured again, so that it makes the same choices.
    Raises `FlexgroupError` as `latency_budget` does, and for a damaged record.
    """
    if config.speedup is None and config.latency_ms is None:
        return None
    import torch

    from flexgroup.pruning import LatencyBudget, latency_budget
    from flexgroup.pruning._distributed import text_from_first_rank

    example = (torch.zeros(1, *image_shape),)
    budget: LatencyBudget | None = None
    if is_main:
        file = None if partial is None else partial / LATENCY
        if file is not None and file.is_file():
            budget = _restored(file, network, example)
        else:
            budget = latency_budget(
                network,
                example,
                config.make_groups(),
                latency=None if config.latency_ms is None else config.latency_ms / 1e3,
                speedup=config.speedup,
                threads=config.latency_threads,
                criterion=config.criterion,
                targets=config.targets,
                ignore=config.ignore or None,
            )
    text = text_from_first_rank("" if budget is None else json.dumps(budget.record()))
    return budget or LatencyBudget.restored(json.loads(text), network, example)


def _restored(file: Path, network: nn.Module, example: tuple[Tensor, ...]) -> LatencyBudget:
    from flexgroup.pruning import LatencyBudget

    try:
        return LatencyBudget.restored(json.loads(file.read_text(encoding="utf-8")), network, example)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FlexgroupError(f"--resume: {file} is damaged ({error}); remove its folder and begin anew") from error


def write_budget(folder: Path, budget: LatencyBudget) -> None:
    """Leave the budget in the folder of an unfinished run, for `find_budget`."""
    from flexgroup.zoo import write_atomically

    write_atomically(folder / LATENCY, (json.dumps(budget.record(), allow_nan=False) + "\n").encode())


def latency_record(budget: LatencyBudget, network: nn.Module) -> dict[str, Any]:
    """What ``run.json`` says of the pruned network's latency, in seconds: asked, predicted and measured."""
    check = budget.check(copy.deepcopy(network).cpu())
    return {
        "found": budget.record(),
        **asdict(check),
        "difference": check.difference,
        "speedup": check.speedup,
        "agrees": None if check.difference is None else abs(check.difference) <= AGREES,
    }


def latency_words(record: dict[str, Any]) -> str:
    """The same as one line."""
    threads = record["found"]["threads"]
    words = (
        f"{_ms(record['predicted'])} predicted and {_ms(record['measured'])} measured for one image on {threads} "
        f"thread{'s' if threads > 1 else ''} ({record['difference']:+.1%}), "
        f"{record['speedup']:.2f}x faster than dense code ({_ms(record['dense'])}); asked: {_ms(record['budget'])}"
    )
    if record["agrees"]:
        return words
    return f"{words}; prediction and measurement differ by more than {AGREES:.0%}: is the machine busy?"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.4g} ms"
