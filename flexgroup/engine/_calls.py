"""What compiled models take and give: the checks of their inputs, and results of the kind that came in."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from flexgroup._errors import FlexgroupError
from flexgroup.engine._plan import Port


def input_arrays(ports: Sequence[Port], inputs: Sequence[Any]) -> list[npt.NDArray[np.float32]]:
    """The inputs (torch tensors or numpy arrays) as dense float32 arrays, once they are known to fit ``ports``.

    Raises `FlexgroupError` for a wrong number of inputs, wrong shapes or element types, and different batch sizes.
    """
    if len(inputs) != len(ports):
        raise FlexgroupError(f"the network takes {len(ports)} inputs, but {len(inputs)} were given")
    arrays = []
    for port, value in zip(ports, inputs, strict=True):
        if not isinstance(value, np.ndarray) and not hasattr(value, "detach"):
            raise FlexgroupError(f"input {port.name!r} is a {type(value).__name__}; give a torch tensor or numpy array")
        if (kind := _name(value.dtype)) != "float32":
            raise FlexgroupError(f"input {port.name!r} is {kind}; convert it to float32")
        array = value if isinstance(value, np.ndarray) else value.numpy(force=True)
        if array.shape[1:] != port.shape or array.ndim == 0:
            wanted = ("batch", *port.shape)
            raise FlexgroupError(
                f"input {port.name!r} has shape {tuple(array.shape)}, but the network was compiled for "
                f"({', '.join(map(str, wanted))}); compile it again with an example of the new size"
            )
        arrays.append(array if array.flags.c_contiguous else np.ascontiguousarray(array))
    if len(arrays) > 1 and len({len(array) for array in arrays}) > 1:
        raise FlexgroupError(f"inputs have different batch sizes: {', '.join(str(len(a)) for a in arrays)}")
    return arrays


def first_image(ports: Sequence[Port], inputs: Sequence[Any]) -> list[npt.NDArray[np.float32]]:
    """The first image of every input, as `input_arrays` gives them; raises `FlexgroupError` for an empty batch too."""
    arrays = [array[:1] for array in input_arrays(ports, inputs)]
    if any(not len(array) for array in arrays):
        raise FlexgroupError("the batch is empty; give at least one image")
    return arrays


def results_like(inputs: Sequence[Any], results: Sequence[npt.NDArray[np.float32]], keys: Sequence[str] = ()) -> Any:
    """One result, a tuple of them, or a dict where there are ``keys``: torch tensors unless ``inputs`` are arrays."""
    given: list[Any] = list(results)
    if inputs and not isinstance(inputs[0], np.ndarray):
        given = list(map(_from_numpy(), results))
    if keys:
        return dict(zip(keys, given, strict=True))
    return given[0] if len(given) == 1 else tuple(given)


def in_order(results: Any) -> list[Any]:
    """What a network returned, one by one: a single result, or those of a tuple, list or dict."""
    if isinstance(results, Mapping):
        return list(results.values())
    return list(results) if isinstance(results, list | tuple) else [results]


@functools.lru_cache(maxsize=64)
def _name(dtype: Hashable) -> str:
    """Of an element type of numpy or torch; it takes longer than all other checks of a call, so it is kept."""
    return str(dtype).removeprefix("torch.")


@functools.cache
def _from_numpy() -> Callable[[npt.NDArray[Any]], Any]:
    """``torch.from_numpy``; numpy arrays do without torch."""
    import torch

    return torch.from_numpy
