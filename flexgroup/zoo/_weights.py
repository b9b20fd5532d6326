"""Weights files: read with every check made before the network is touched, written whole or not at all."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from flexgroup._errors import FlexgroupError

TORCH_SUFFIXES = (".pt", ".pth", ".th", ".bin", ".ckpt")


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load the weights in ``path`` into ``model``, in place.

    ``path`` is a ``.safetensors`` file, or a PyTorch checkpoint (read with ``weights_only=True``, so that no
    code in it is executed); a checkpoint's weights may be nested under ``state_dict`` and may carry the
    ``module.`` prefix of ``DataParallel``. ``num_batches_tracked`` may be absent.

    Raises `FlexgroupError`, before anything is loaded, where the file is missing, truncated or of another
    format, where names or shapes are not those of the model, or where a weight is NaN or Inf.
    """
    path = Path(path)
    own = model.state_dict()
    weights = _without_prefix(read_weights(path), own)
    optional = {key for key in own if key.endswith("num_batches_tracked")}
    missing = [key for key in own if key not in weights and key not in optional]
    unexpected = sorted(key for key in weights if key not in own)
    if missing or unexpected:
        parts = [
            f"{word} {_first_few(keys)}"
            for word, keys in (("lacks", missing), ("has the unexpected", unexpected))
            if keys
        ]
        raise FlexgroupError(
            f"weights {path}: the file {' and '.join(parts)}; it belongs to another network: check --model"
        )
    wrong = [
        f"{key} is {_shape(weights[key])} in the file and {_shape(own[key])} in the model"
        for key in weights
        if weights[key].shape != own[key].shape
    ]
    if wrong:
        raise FlexgroupError(
            f"weights {path}: shapes differ: {_first_few(wrong)}; check --model and its width and classes"
        )
    foreign = [
        f"{key} ({str(tensor.dtype).removeprefix('torch.')})"
        for key, tensor in weights.items()
        if tensor.is_floating_point() != own[key].is_floating_point()
    ]
    if foreign:
        raise FlexgroupError(
            f"weights {path}: not of the model's kind of number: {_first_few(foreign)}; give floating-point weights"
        )
    check_finite(weights, f"weights {path}")
    model.load_state_dict(weights, strict=False)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors in a weights file by name, on the CPU; raises `FlexgroupError` where it cannot be read."""
    path = Path(path)
    if path.is_dir():
        inside = path / "model.safetensors"
        hint = f"give {inside}" if inside.is_file() else "give the weights file in it"
        raise FlexgroupError(f"weights {path} is a folder, not a file; {hint}")
    if not path.is_file():
        raise FlexgroupError(f"weights {path}: there is no such file; check the path")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in TORCH_SUFFIXES:
        return _read_checkpoint(path)
    raise FlexgroupError(
        f"weights {path}: unknown file type {path.suffix!r}; give .safetensors or one of {', '.join(TORCH_SUFFIXES)}"
    )


def read_metadata(path: str | Path) -> dict[str, str]:
    """What the header of a ``.safetensors`` file says about it; empty for other files."""
    path = Path(path)
    if path.suffix != ".safetensors":
        return {}
    try:
        with safetensors.safe_open(path, "np") as file:
            return dict(file.metadata() or {})
    except (safetensors.SafetensorError, OSError) as error:
        raise FlexgroupError(f"weights {path} cannot be read: {_first_line(error)}") from error


def save_weights(model: nn.Module, path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write the state of ``model`` to a ``.safetensors`` file that appears whole or not at all.

    ``metadata`` goes into the file's header. Tensors are stored contiguous; tensors that share memory are
    stored each. Raises `FlexgroupError` if the model still carries parametrizations, or if the folder does
    not exist.
    """
    path = Path(path)
    state = model.state_dict()
    unfinished = [key for key in state if "parametrizations." in key]
    if unfinished:
        raise FlexgroupError(
            f"cannot save {path}: {_first_few(unfinished)} still under a parametrization; call pruner.finalize() first"
        )
    if not path.parent.is_dir():
        raise FlexgroupError(f"cannot save {path}: the folder {path.parent} does not exist; make it first")
    tensors = {
        key: tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format) for key, tensor in state.items()
    }
    write_atomically(path, safetensors.torch.save(tensors, dict(metadata or {})))


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` under a temporary name beside ``path``, flush it to the disk, then rename it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_finite(weights: Mapping[str, Tensor], where: str) -> None:
    """Raise `FlexgroupError`, beginning with ``where``, if a floating-point tensor holds NaN or Inf."""
    bad = [
        key for key, tensor in weights.items() if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())
    ]
    if bad:
        raise FlexgroupError(f"{where}: NaN or Inf in {_first_few(bad)}; the training diverged or the file is damaged")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise FlexgroupError(
            f"weights {path}: not a complete safetensors file ({error}); copy or download it again"
        ) from error
    except (OSError, KeyError) as error:
        raise FlexgroupError(f"weights {path} cannot be read: {error}") from error


def _read_checkpoint(path: Path) -> dict[str, Tensor]:
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise FlexgroupError(
            f"weights {path}: not a checkpoint of plain tensors ({_first_line(error)}); "
            "save model.state_dict() and give that file"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError, ImportError) as error:
        raise FlexgroupError(
            f"weights {path}: not a complete PyTorch checkpoint ({_first_line(error)}); copy or download it again"
        ) from error
    for nest in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(nest), Mapping):
            content = content[nest]
            break
    if not isinstance(content, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    ):
        raise FlexgroupError(
            f"weights {path}: the checkpoint holds no state_dict (a mapping of names to tensors); "
            "save model.state_dict() and give that file"
        )
    return dict(content)


def _without_prefix(weights: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = "module."
    if all(key.startswith(prefix) for key in weights) and not any(key.startswith(prefix) for key in own):
        return {key.removeprefix(prefix): tensor for key, tensor in weights.items()}
    return weights


def _first_few(items: Iterable[str], limit: int = 3) -> str:
    items = list(items)
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
