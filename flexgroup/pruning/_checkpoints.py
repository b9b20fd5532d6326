"""Checkpoints on disk: whole or not there at all, each with checksums; the last two are kept.

A checkpoint is two files, ``step-00000120.safetensors`` (tensors) and ``step-00000120.json`` (all else). The second is
written last and holds the hash of the first: where it stands, the checkpoint is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from flexgroup._errors import FlexgroupError

KEPT = 2
FORMAT = "flexgroup training checkpoint 1"
_NAME = re.compile(r"step-(\d{8,})\.json")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The state of a training after ``step`` steps: ``tensors`` by name, and ``state``, which is JSON."""

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]
    file: Path


def write_checkpoint(folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
    """Write a checkpoint into ``folder`` (made if need be), then remove all but the newest `KEPT`; its JSON file.

    A process that is killed at any moment leaves either the new checkpoint or those before it, whole.
    Raises `FlexgroupError` where it cannot be written; those before it are then still there.
    """
    stem = f"step-{step:08d}"
    # a copy, because safetensors takes no views and no tensors that share memory
    data = safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    )
    document = {"format": FORMAT, "step": step, "tensors_sha256": hashlib.sha256(data).hexdigest(), "state": state}
    text = json.dumps({**document, "sha256": _digest(document)}, indent=1, allow_nan=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / f"{stem}.safetensors", data)
        _write(folder / f"{stem}.json", text.encode())
        _sync(folder)
    except OSError as error:
        raise FlexgroupError(
            f"checkpoint {folder / stem}: cannot be written ({error.strerror}); the one before it is still there"
        ) from error
    _remove_old(folder, stem)
    return folder / f"{stem}.json"


def read_checkpoint(folder: Path, step: int | None = None) -> Checkpoint | None:
    """The newest checkpoint in ``folder`` that is whole (or that of ``step``); None where there is none at all.

    A damaged one is named in a warning, and the one before it is taken. Raises `FlexgroupError` where all are damaged.
    """
    files = [file for number, file in _files(folder) if step is None or number == step]
    for file in files:
        try:
            return _read(file)
        except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            if file is not files[-1]:
                warnings.warn(f"checkpoint {file} is damaged ({reason}); the one before it is used", stacklevel=2)
            else:
                raise FlexgroupError(
                    f"checkpoint {file} is damaged ({reason}), and there is none before it; "
                    f"remove {folder} and start anew"
                ) from error
    return None


def _read(file: Path) -> Checkpoint:
    document = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError(f"it is not a {FORMAT!r}")
    if document.pop("sha256") != _digest(document):
        raise ValueError("its content does not match its checksum")
    data = file.with_suffix(".safetensors").read_bytes()
    if hashlib.sha256(data).hexdigest() != document["tensors_sha256"]:
        raise ValueError(f"{file.with_suffix('.safetensors').name} does not match its checksum")
    return Checkpoint(document["step"], safetensors.torch.load(data), document["state"], file)


def _digest(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _files(folder: Path) -> list[tuple[int, Path]]:
    """(step, JSON file) of every checkpoint, the newest first."""
    if not folder.is_dir():
        return []
    found = ((_NAME.fullmatch(file.name), file) for file in folder.iterdir())
    return sorted(((int(match[1]), file) for match, file in found if match), reverse=True)


def _write(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(partial, path)


def _sync(folder: Path) -> None:
    """Make the renames last through a loss of power, where the system lets folders be synced."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove_old(folder: Path, newest: str) -> None:
    """Remove all but `KEPT` checkpoints up to the one just written, and what a killed process left half-written."""
    steps = [
        int(newest.removeprefix("step-")),
        *(number for number, _ in _files(folder) if f"step-{number:08d}" < newest),
    ]
    stay = {f"step-{number:08d}" for number in steps[:KEPT]}
    # the JSON files first: without it, the tensors are no checkpoint
    for file in sorted(folder.glob("step-*"), key=lambda file: file.suffix != ".json"):
        if file.name.split(".")[0] not in stay or file.suffix == ".partial":
            file.unlink(missing_ok=True)
