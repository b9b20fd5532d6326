"""What unaligned groups buy without any training: the pretrained ResNet-20 on CIFAR-10, pruned at once.

    python experiments/cifar10_one_shot.py --data cifar10:DATA --weights resnet20.safetensors [--sparsities 0.7,0.8]

For every shape aligned and unaligned, with and without a permutation of channels: accuracy on the last 5,000 training
images as pruned, with batch norm measured again, and with the kept weights re-fitted by least squares and batch norm
measured again. Takes about half a minute a network on one core; what is in the file of results already is not done
again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from _cifar10_networks import check_weights, network_of, permute_for
from _cifar10_runs import COLUMN_SHAPES, ROW_SHAPES, Pruned
from _cifar10_train import one_shot, read_splits
from rich.console import Console

from flexgroup import FlexgroupError
from flexgroup.report import ResultTable, markdown
from flexgroup.zoo import load_weights, write_atomically

OUT = Path(__file__).resolve().parents[1] / "results" / "cifar10" / "one_shot.json"
KINDS = {"one_shot": "as pruned", "one_shot_reestimated": "batch norm again", "one_shot_refit": "re-fitted"}


def networks(sparsities: list[float], shapes: list[str]) -> Iterator[Pruned]:
    """All patterns, one global budget each."""
    for sparsity in sparsities:
        yield Pruned("1x1", "aligned", sparsity, 0, "global")
        for shape in shapes:
            free = "rows" if shape in ROW_SHAPES else "cols"
            for alignment in ("aligned", free, "permuted", f"{free}-permuted"):
                yield Pruned(shape, alignment, sparsity, 0, "global")


def main(
    data: Annotated[str, typer.Option("--data", help="cifar10:FOLDER.")],
    weights: Annotated[Path, typer.Option("--weights", help="The pretrained ResNet-20, .safetensors.")],
    sparsities: Annotated[str, typer.Option("--sparsities", help="Shares to prune, with commas.")] = "0.7,0.8",
    shapes: Annotated[str, typer.Option("--shapes", help="Group shapes, with commas.")] = "4x1,2x1,8x1,2x4,1x8",
    out: Annotated[Path, typer.Option("--out", help="File of the results.")] = OUT,
) -> None:
    """Measure what is missing, then print the table."""
    known = {*ROW_SHAPES, *COLUMN_SHAPES}
    asked = shapes.split(",")
    if not set(asked) <= known:
        raise FlexgroupError(f"--shapes {shapes}: choose among {', '.join(sorted(known))}")
    wanted = list(networks([float(share) for share in sparsities.split(",")], asked))
    check_weights(weights)
    rows: dict[str, dict[str, Any]] = json.loads(out.read_text("utf-8"))["networks"] if out.exists() else {}
    splits = read_splits(data)
    for network in wanted:
        if network.name in rows:
            continue
        model = network_of(network)
        load_weights(model, weights)
        permute_for(network, model)
        found = one_shot(network, model, splits)
        rows[network.name] = {"groups": network.groups, "alignment": network.alignment, "sparsity": network.sparsity}
        rows[network.name] |= {**found["accuracy"], "kept_magnitude": found["kept_magnitude"]}
        write_atomically(out, (json.dumps({"schema": 1, "networks": rows}, indent=1) + "\n").encode())
        print(network.name, {key: round(value, 2) for key, value in found["accuracy"].items()}, flush=True)
    columns = ("pattern", "pruned (%)", "magnitude kept", *KINDS.values())
    lines = [
        (
            f"{row['groups']} {row['alignment']}",
            f"{100 * row['sparsity']:g}",
            f"{row['kept_magnitude']:.3f}",
            *(f"{row[kind]:.2f}" for kind in KINDS),
        )
        for row in (rows[network.name] for network in wanted)
    ]
    print(markdown(ResultTable(columns, tuple(lines))))


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command()(main)
    try:
        app(standalone_mode=False)
    except FlexgroupError as error:
        Console(stderr=True).print(f"error: {error}", style="red", highlight=False)
        raise SystemExit(2) from None
