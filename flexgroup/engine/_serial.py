"""Frozen dataclasses of this package as bytes and back: JSON for the structure, the arrays' bytes behind it.

Nothing is ever executed: the reader makes dataclasses of this package and nothing else. A class is written by its name
and its fields in order, so the bytes are good only for the very sources that wrote them: whoever keeps them
keeps a digest of the sources in their key.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
from typing import Any

import numpy as np
import numpy.typing as npt

_ALIGNMENT = 64
_LENGTH_BYTES = 8
_WORTHWHILE = 1024  # elements from which zeros are left out


def to_bytes(value: object, limit: int | None = None) -> bytes:
    """``value``, made of dataclasses of this package, tuples, dicts, numbers, strings and arrays, as bytes.

    Raises `TypeError` for anything else, and `ValueError` as soon as the arrays take more than ``limit`` bytes.
    """
    writer = _Writer(limit)
    tree = writer.encode(value)
    header = json.dumps({"tree": tree, "classes": writer.classes, "arrays": writer.arrays}).encode()
    start = -(_LENGTH_BYTES + len(header)) % _ALIGNMENT
    return b"".join([len(header).to_bytes(_LENGTH_BYTES, "little"), header, bytes(start), *writer.blocks])


def from_bytes(data: bytes) -> Any:
    """What `to_bytes` was given, lists as tuples; raises `ValueError` where ``data`` is not its answer."""
    try:
        length = int.from_bytes(data[:_LENGTH_BYTES], "little")
        header = json.loads(data[_LENGTH_BYTES : _LENGTH_BYTES + length])
        start = _LENGTH_BYTES + length
        reader = _Reader(memoryview(data)[start + -start % _ALIGNMENT :], header["arrays"])
        reader.classes = [_class_named(name) for name in header["classes"]]
        return reader.decode(header["tree"])
    except (KeyError, IndexError, TypeError, AttributeError, ImportError) as error:
        raise ValueError(f"these bytes do not hold objects of this version: {error}") from error


class _Writer:
    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self.classes: list[str] = []
        self.arrays: list[list[Any]] = []
        self.blocks: list[bytes] = []
        self._size = 0

    def encode(self, value: object) -> Any:
        """``value`` as JSON: numbers and strings as they are, tuples as lists, all else as a tagged object."""
        if value is None or isinstance(value, bool | str):
            return value
        if isinstance(value, int | np.integer):
            return int(value)
        if isinstance(value, float | np.floating):
            return float(value)
        if isinstance(value, tuple | list):
            return [self.encode(item) for item in value]
        if isinstance(value, dict):
            return {"map": [[self.encode(key), self.encode(item)] for key, item in value.items()]}
        if isinstance(value, np.ndarray):
            return {"array": self._array(value)}
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = [self.encode(getattr(value, field.name)) for field in dataclasses.fields(value) if field.init]
            return {"class": self._class(type(value)), "fields": fields}
        raise TypeError(f"{type(value).__name__} cannot be written")

    def _class(self, kind: type) -> int:
        name = f"{kind.__module__}:{kind.__qualname__}"
        if _class_named(name) is not kind:
            raise TypeError(f"{name} cannot be found by its name")
        if name not in self.classes:
            self.classes.append(name)
        return self.classes.index(name)

    def _array(self, array: npt.NDArray[Any]) -> int:
        if array.dtype.hasobject:
            raise TypeError("an array of objects cannot be written")
        flat = np.ascontiguousarray(array).reshape(-1)
        places = _nonzero_bits(flat)
        blocks = [flat] if places is None else [np.packbits(places), flat[places]]
        described = [self._block(block) for block in blocks]
        self.arrays.append([flat.dtype.str, list(array.shape), described])
        return len(self.arrays) - 1

    def _block(self, block: npt.NDArray[Any]) -> list[int]:
        """Append bytes; returns (offset, length)."""
        if self._limit is not None and self._size + block.nbytes > self._limit:
            raise ValueError(f"more than {self._limit} bytes")
        data = block.tobytes()
        self.blocks.append(data + bytes(-len(data) % _ALIGNMENT))
        offset = self._size
        self._size += len(self.blocks[-1])
        return [offset, len(data)]


def _nonzero_bits(flat: npt.NDArray[Any]) -> npt.NDArray[np.bool_] | None:
    """Where a large array of 32-bit numbers is not zero, bit by bit, if leaving out zeros makes it much smaller."""
    if flat.itemsize != 4 or flat.size < _WORTHWHILE:
        return None
    places: npt.NDArray[np.bool_] = flat.view(np.uint32) != 0
    return places if np.count_nonzero(places) * 2 < flat.size else None


class _Reader:
    def __init__(self, blocks: memoryview, arrays: list[Any]) -> None:
        self.classes: list[type] = []
        self._blocks = blocks
        self._arrays = [self._array(*description) for description in arrays]

    def decode(self, tree: Any) -> Any:
        if isinstance(tree, list):
            return tuple(self.decode(item) for item in tree)
        if not isinstance(tree, dict):
            return tree
        if "map" in tree:
            return {self.decode(key): self.decode(item) for key, item in tree["map"]}
        if "array" in tree:
            return self._arrays[tree["array"]]
        kind = self.classes[tree["class"]]
        names = [field.name for field in dataclasses.fields(kind) if field.init]
        return kind(**dict(zip(names, map(self.decode, tree["fields"]), strict=True)))

    def _array(self, dtype: str, shape: list[int], described: list[list[int]]) -> npt.NDArray[Any]:
        blocks = [self._blocks[offset : offset + length] for offset, length in described]
        if len(blocks) == 1:
            return np.frombuffer(blocks[0], dtype=dtype).reshape(shape)
        size = math.prod(shape)
        array = np.zeros(size, dtype=dtype)
        array[np.unpackbits(np.frombuffer(blocks[0], np.uint8), count=size).view(np.bool_)] = np.frombuffer(
            blocks[1], dtype=dtype
        )
        return array.reshape(shape)


def _class_named(name: str) -> type:
    module, _, qualified = name.partition(":")
    if module.split(".")[0] != __name__.split(".")[0]:
        raise TypeError(f"{name} is not of this package")
    found: Any = importlib.import_module(module)
    for part in qualified.split("."):
        found = getattr(found, part)
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise TypeError(f"{name} is not a dataclass")
    return found
