"""``flexgroup export``: a network as an object file and a C header."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flexgroup.cli._network import open_network
from flexgroup.cli._options import (
    AccumulateOption,
    FileArgument,
    InputOption,
    JsonOption,
    ModelOption,
    PrecisionOption,
    WeightsOption,
    chosen_model,
    parse_shape,
)
from flexgroup.cli._output import Progress, print_json, working

if TYPE_CHECKING:
    from flexgroup.deploy import ExportedFiles


def export(
    out: Annotated[Path, typer.Option("--out", help="Folder for NAME.o and NAME.h.")],
    file: FileArgument = "",
    model: ModelOption = "",
    weights: WeightsOption = None,
    target: Annotated[
        str, typer.Option("--target", help="host, aarch64-android, aarch64-ios, x86-64-avx2, wasm32, ...")
    ] = "host",
    name: Annotated[str, typer.Option("--name", help="Prefix of the C functions; by default the model's name.")] = "",
    precision: PrecisionOption = "fp32",
    accumulate: AccumulateOption = "",
    input_shape: InputOption = "",
    force: Annotated[bool, typer.Option("--force", help="Write into a folder that is not empty.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Compile a network into one object file and one C header, without a runtime library.

    \b
    Example:
      flexgroup export --model resnet20 --weights RUN/model.safetensors
          --target aarch64-android --out OUT
      flexgroup export model.onnx --out OUT
    """
    progress = Progress(shown=True)
    with working(progress):
        chosen = chosen_model(file, model)
        files = run_export(
            chosen,
            weights,
            out,
            target=target,
            name=name or _name_of(chosen),
            shape=parse_shape(input_shape),
            precision=precision,
            accumulate=accumulate or None,
            force=force,
            progress=progress,
        )
    if as_json:
        print_json(asdict(files) | {"object": str(files.object), "header": str(files.header)})
    else:
        _print(files)


def _name_of(model: str) -> str:
    """``mynets:make`` -> ``make``, ``nets/my-net.onnx`` -> ``my_net``."""
    is_file = Path(model).suffix.lower() == ".onnx"
    return re.sub(r"[^A-Za-z0-9_]", "_", Path(model).stem) if is_file else model.rpartition(":")[2]


def run_export(
    model: str,
    weights: Path | None,
    out: Path,
    *,
    target: str = "host",
    name: str = "network",
    shape: tuple[int, ...] | None = None,
    precision: str = "fp32",
    accumulate: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> ExportedFiles:
    """Export network ``model`` for inputs of ``shape`` (by default one image of the size it was made for).

    Raises `FlexgroupError` for wrong input; then nothing is written.
    """
    import torch

    from flexgroup import deploy

    progress = progress or Progress()
    network, shape = open_network(model, weights, shape)
    progress.stage(f"compiling for {target}")
    example = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    return deploy.export(
        network,
        (example,),
        out,
        target=target,
        name=name,
        precision=precision,
        accumulate=accumulate,
        force=force,
    )


def _print(files: ExportedFiles) -> None:
    print(f"{files.object}  constants {files.constant_bytes:,} bytes, workspace {files.workspace_bytes:,} bytes")
    print(f"{files.header}  declares {files.name}_prepare and {files.name}_run")
    print(f"{files.macs:,} multiply-accumulates an image; {files.dense_macs:,} with no zero skipped")
    print(f"differs from torch by {files.error:.1e} of the largest output (run here, in this machine's instructions)")
