"""``flexgroup prune``: from a trained network to a pruned one, in a folder with all figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flexgroup.cli._options import DataOption, JsonOption, ModelOption, WeightsOption
from flexgroup.cli._output import Progress, print_json, working
from flexgroup.cli._prune_config import PruneConfig, parse_options
from flexgroup.cli._prune_latency import (
    LatencyOption,
    LatencyThreadsOption,
    SparsityOption,
    SpeedupOption,
    default_sparsity,
    latency_words,
)
from flexgroup.cli._pruning_run import main_process, run_prune


def prune(
    model: ModelOption,
    data: DataOption,
    out: Annotated[Path, typer.Option("--out", help="Folder to make, for the weights and the figures.")],
    weights: WeightsOption = None,
    groups: Annotated[str, typer.Option("--groups", help="Group size, rows x columns.")] = "4x1",
    unaligned: Annotated[
        str, typer.Option("--unaligned", help="Axis along which groups start anywhere: rows, cols or none.")
    ] = "none",
    sparsity: SparsityOption = None,
    speedup: SpeedupOption = None,
    latency_ms: LatencyOption = None,
    latency_threads: LatencyThreadsOption = 1,
    budget: Annotated[str, typer.Option("--budget", help="Spread over: global, layer or line.")] = "global",
    criterion: Annotated[
        str,
        typer.Option(
            "--criterion", help="What a weight is worth: magnitude, squared, taylor, fisher, movement or wanda."
        ),
    ] = "magnitude",
    target: Annotated[list[str] | None, typer.Option("--target", help="Only layers like this; repeatable.")] = None,
    ignore: Annotated[list[str] | None, typer.Option("--ignore", help="No layer like this; repeatable.")] = None,
    epochs: Annotated[int, typer.Option("--epochs", help="Epochs of fine-tuning; 0: prune only.")] = 0,
    schedule: Annotated[
        str,
        typer.Option(
            "--schedule",
            help="oneshot; or over 60 % of the steps (all, with --rewind): cubic (default with epochs), constant or "
            "iterative.",
        ),
    ] = "",
    rounds: Annotated[int, typer.Option("--rounds", help="Of the iterative schedule.")] = 5,
    rewind: Annotated[
        str | None,
        typer.Option(
            "--rewind",
            help="After each round of iterative go back to the weights and learning rate of this epoch (1, 0.5); "
            "lr: to the first learning rate only.",
        ),
    ] = None,
    regrowth: Annotated[
        str,
        typer.Option("--regrowth", help="What pruned weights do in training: memory, none or straight-through."),
    ] = "memory",
    shrink: Annotated[
        float, typer.Option("--shrink", help="Decay of pruned weights, 0.0002 for example; not with none.")
    ] = 0.0,
    permute: Annotated[
        bool, typer.Option("--permute", help="First order the channels so that groups keep more.")
    ] = False,
    refit: Annotated[
        int, typer.Option("--refit", help="After oneshot: fit the kept weights on so many training images.")
    ] = 0,
    lr: Annotated[float, typer.Option("--lr", help="Highest learning rate.")] = 0.05,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Images in one training step.")] = 128,
    optimizer: Annotated[str, typer.Option("--optimizer", help="Any of torch.optim: sgd, adamw, ...")] = "sgd",
    optimizer_option: Annotated[
        list[str] | None, typer.Option("--optimizer-option", help="NAME=VALUE for the optimizer; repeatable.")
    ] = None,
    lr_schedule: Annotated[
        str,
        typer.Option(
            "--lr-schedule",
            help="cosine, linear, constant, polynomial, exponential, step or restarts; after a warm-up.",
        ),
    ] = "cosine",
    lr_option: Annotated[
        list[str] | None, typer.Option("--lr-option", help="NAME=VALUE for the LR schedule; repeatable.")
    ] = None,
    label_smoothing: Annotated[float, typer.Option("--label-smoothing", help="Share of the label spread out.")] = 0.0,
    clip: Annotated[float | None, typer.Option("--clip", help="Largest norm of the gradients.")] = None,
    accumulate: Annotated[
        int, typer.Option("--accumulate", help="Work through a batch in so many parts: less memory.")
    ] = 1,
    precision: Annotated[
        str, typer.Option("--precision", help="auto (the fastest here, measured), fp32, bf16 or fp16.")
    ] = "auto",
    distill: Annotated[
        float, typer.Option("--distill", help="Share of the loss that compares with the dense network, 0 to 1.")
    ] = 0.0,
    temperature: Annotated[float, typer.Option("--temperature", help="Of the distillation.")] = 4.0,
    validation: Annotated[
        int,
        typer.Option(
            "--validation",
            help="Training images to hold out and measure on; the test images are read at the end. 0: no such images.",
        ),
    ] = 0,
    checkpoint_every: Annotated[
        int | None, typer.Option("--checkpoint-every", help="Steps between checkpoints; by default, one an epoch.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the unfinished run into --out.")] = False,
    tracker: Annotated[
        list[str] | None, typer.Option("--tracker", help="tensorboard, or another of Accelerate's; repeatable.")
    ] = None,
    reestimate: Annotated[
        bool, typer.Option(help="Without fine-tuning: measure batch-norm statistics again after pruning.")
    ] = True,
    seed: Annotated[int, typer.Option("--seed", help="Seed of all randomness.")] = 0,
    threads: Annotated[int, typer.Option("--threads", help="Threads to use; 0: PyTorch's choice.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace the run that is in the folder.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Prune a trained network in groups, fine-tune it, and save it as plain weights with zeros.

    A run that was stopped or killed goes on with the same options and --resume. Several processes or machines train
    together under torchrun or accelerate launch.

    \b
    Examples:
      flexgroup prune --model resnet20 --weights W.safetensors
          --data cifar10:data --groups 4x1 --unaligned rows
          --sparsity 0.9 --epochs 10 --out RUN
      torchrun --nproc-per-node 2 --no-python flexgroup prune ...
    """
    progress, noted = Progress(shown=main_process()), list[str]()
    with working(progress, noted):
        config = PruneConfig(
            model=model,
            weights=None if weights is None else str(weights),
            data=data,
            groups=groups,
            unaligned=None if unaligned == "none" else unaligned,
            sparsity=default_sparsity(sparsity, speedup, latency_ms),
            budget=budget,
            criterion=criterion,
            targets=tuple(target) if target else None,
            ignore=tuple(ignore or ()),
            epochs=epochs,
            schedule=schedule or ("cubic" if epochs else "oneshot"),
            lr=lr,
            batch_size=batch_size,
            reestimate=reestimate and not epochs,
            seed=seed,
            threads=threads,
            optimizer=optimizer,
            optimizer_options=parse_options(optimizer_option, "--optimizer-option"),
            lr_schedule=lr_schedule,
            lr_options=parse_options(lr_option, "--lr-option"),
            label_smoothing=label_smoothing,
            clip=clip,
            accumulate=accumulate,
            precision=precision,
            distill=distill,
            temperature=temperature,
            validation=validation,
            speedup=speedup,
            latency_ms=latency_ms,
            latency_threads=latency_threads,
            rounds=rounds,
            regrowth=regrowth,
            shrink=shrink,
            permute=permute,
            refit=refit,
            rewind=rewind,
        )
        record = run_prune(
            config,
            out,
            force=force,
            resume=resume,
            checkpoint_every=checkpoint_every,
            trackers=tuple(tracker or ()),
            progress=progress,
            warned=noted,
        )
    if not main_process():
        return
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
        "refitted": "with the kept weights fitted",
        "reestimated": "with batch norm measured again",
        "finetuned": "after fine-tuning",
    }
    for key, words in named.items():
        if accuracy[key] is not None:
            print(f"{accuracy[key]:6.2f} % of the test images right {words}")
    if record.get("latency"):
        print(latency_words(record["latency"]))
    print(f"{out / 'model.safetensors'} ({record['seconds']['total']:.0f} s)")
