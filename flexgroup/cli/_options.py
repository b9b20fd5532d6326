"""Options that several commands share, each described once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from flexgroup._errors import FlexgroupError

ModelOption: TypeAlias = Annotated[
    str, typer.Option("--model", help="Network: resnet20, ..., or your own as package.module:function.")
]
FileArgument: TypeAlias = Annotated[
    str, typer.Argument(help="An ONNX file, instead of --model.", metavar="[FILE.onnx]")
]
WeightsOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        help="Weights: .safetensors or a PyTorch checkpoint; your own function may load its own.",
    ),
]
DataOption: TypeAlias = Annotated[
    str, typer.Option("--data", help="Data set: digits, cifar10:FOLDER or imagenet:FOLDER.")
]
InputOption: TypeAlias = Annotated[
    str, typer.Option("--input", help="Shape with batch; needed for package.module:function.")
]
PrecisionOption: TypeAlias = Annotated[
    str, typer.Option("--precision", help="How numbers are stored: fp32, or fp16, with a difference that is reported.")
]
AccumulateOption: TypeAlias = Annotated[
    str,
    typer.Option("--accumulate", help="What fp16 numbers are added in: fp16 or fp32; by default as the target can."),
]
JsonOption: TypeAlias = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout, and nothing else there.")
]


def chosen_model(file: str, model: str) -> str:
    """The one network that is named: by the argument ``file``, an ONNX file, or by ``--model``.

    Raises `FlexgroupError` unless there is exactly one, and for files of another kind.
    """
    if bool(file) == bool(model):
        raise FlexgroupError("name one network: --model resnet20, or an ONNX file such as model.onnx")
    if file and Path(file).suffix.lower() != ".onnx":
        raise FlexgroupError(f"{file!r} is not a .onnx file; give one, or name a network with --model")
    return file or model


def parse_numbers(text: str, option: str, example: str) -> tuple[int, ...]:
    """``"1,2"`` -> (1, 2). Raises `FlexgroupError` unless all are whole numbers of at least 1."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise FlexgroupError(
            f"{option} {text!r} is not a list of whole numbers of at least 1; write for example {option} {example}"
        )
    return tuple(int(part) for part in parts)


def parse_shape(text: str) -> tuple[int, ...] | None:
    """``"1,3,224,224"`` or ``"1x3x224x224"`` as a shape, nothing as None. Raises as `parse_numbers` does."""
    written = text.replace("x", ",") if re.fullmatch(r"\d+(x\d+)+", text) else text
    return parse_numbers(written, "--input", "1,3,224,224") if text else None


def check_at_least(value: float, least: float, option: str) -> None:
    """Raise `FlexgroupError` if ``value`` is below ``least``, or is not a number at all."""
    if not value >= least:
        raise FlexgroupError(f"{option} {value:g} is too small; give at least {least:g}")
