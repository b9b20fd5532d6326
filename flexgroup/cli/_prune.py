"""``flexgroup prune``: from a trained network to a pruned one, in a folder with all figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flexgroup.cli._options import DataOption, JsonOption, ModelOption, WeightsOption
from flexgroup.cli._output import Progress, print_json, working
from flexgroup.cli._pruning_run import PruneConfig, run_prune


def prune(
    model: ModelOption,
    data: DataOption,
    out: Annotated[Path, typer.Option("--out", help="Folder to make, for the weights and the figures.")],
    weights: WeightsOption = None,
    groups: Annotated[str, typer.Option("--groups", help="Group size, rows x columns.")] = "4x1",
    unaligned: Annotated[
        str, typer.Option("--unaligned", help="Axis along which groups start anywhere: rows, cols or none.")
    ] = "none",
    sparsity: Annotated[float, typer.Option("--sparsity", help="Share of the weights to prune, 0 to 1.")] = 0.9,
    budget: Annotated[str, typer.Option("--budget", help="Spread over: global, layer or line.")] = "global",
    criterion: Annotated[str, typer.Option("--criterion", help="What a weight is worth.")] = "magnitude",
    target: Annotated[list[str] | None, typer.Option("--target", help="Only layers like this; repeatable.")] = None,
    ignore: Annotated[list[str] | None, typer.Option("--ignore", help="No layer like this; repeatable.")] = None,
    epochs: Annotated[int, typer.Option("--epochs", help="Epochs of fine-tuning; 0: prune only.")] = 0,
    schedule: Annotated[
        str,
        typer.Option("--schedule", help="oneshot or cubic (over 60 % of the steps; default with epochs)."),
    ] = "",
    lr: Annotated[float, typer.Option("--lr", help="Highest learning rate.")] = 0.05,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Images in one training step.")] = 128,
    bf16: Annotated[bool, typer.Option("--bf16/--fp32", help="Fine-tune in bfloat16, often faster.")] = False,
    reestimate: Annotated[
        bool, typer.Option(help="Without fine-tuning: measure batch-norm statistics again after pruning.")
    ] = True,
    seed: Annotated[int, typer.Option("--seed", help="Seed of all randomness.")] = 0,
    threads: Annotated[int, typer.Option("--threads", help="Threads to use; 0: PyTorch's choice.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace the run that is in the folder.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Prune a trained network in groups, fine-tune it, and save it as plain weights with zeros.

    \b
    Example:
      flexgroup prune --model resnet20 --weights W.safetensors
          --data cifar10:data --groups 4x1 --unaligned rows
          --sparsity 0.9 --epochs 10 --out RUN
    """
    progress, noted = Progress(shown=True), list[str]()
    with working(progress, noted):
        config = PruneConfig(
            model=model,
            weights=None if weights is None else str(weights),
            data=data,
            groups=groups,
            unaligned=None if unaligned == "none" else unaligned,
            sparsity=sparsity,
            budget=budget,
            criterion=criterion,
            targets=tuple(target) if target else None,
            ignore=tuple(ignore or ()),
            epochs=epochs,
            schedule=schedule or ("cubic" if epochs else "oneshot"),
            lr=lr,
            batch_size=batch_size,
            bf16=bf16,
            reestimate=reestimate and not epochs,
            seed=seed,
            threads=threads,
        )
        record = run_prune(config, out, force=force, progress=progress, warned=noted)
    if as_json:
        print_json({"out": str(out), **record})
    else:
        _print(record, out)


def _print(record: dict[str, Any], out: Path) -> None:
    accuracy, sparsity = record["accuracy"], record["sparsity"]
    print(f"{100 * sparsity['targeted']:.2f} % of the targeted weights are zero ({100 * sparsity['all']:.2f} % of all)")
    named = {
        "dense": "before",
        "pruned": "after pruning",
        "reestimated": "with batch norm measured again",
        "finetuned": "after fine-tuning",
    }
    for key, words in named.items():
        if accuracy[key] is not None:
            print(f"{accuracy[key]:6.2f} % of the test images right {words}")
    print(f"{out / 'model.safetensors'} ({record['seconds']['total']:.0f} s)")
