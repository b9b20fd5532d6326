"""The plan: an ordered list of kernel calls over one block of constants and one arena."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from flexgroup.kernels import BASE_SHIFT, Element, KernelSpec, Target

HALO = "/halo"  # ends the names of steps that copy what lies around a thread's rows of a layer's output
CONSTANTS, ARENA, FIRST_EXTERNAL = 0, 1, 2  # regions that kernel arguments refer to
ALIGNMENT = 64


def reference(region: int, offset: int) -> int:
    """A kernel argument that stands for ``offset`` bytes into ``region``."""
    return region << BASE_SHIFT | offset


def number(value: float) -> int:
    """A kernel argument that stands for a 32-bit floating-point number."""
    # As numpy narrows: what is too large for 32 bits is infinite.
    with np.errstate(over="ignore"):
        return int(struct.unpack("<I", np.float32(value).tobytes())[0])


@dataclass(frozen=True)
class Step:
    """One kernel call: its arguments for every thread (None: that thread has nothing to do)."""

    name: str
    kernel: KernelSpec
    parts: tuple[tuple[int, ...] | None, ...]
    macs: int = 0  # multiply-accumulates that are executed for one image
    useful_macs: int = 0  # those whose weight is not zero
    dense_macs: int = 0
    reason: str = ""  # why this kernel
    bytes: int = 0  # of activations and weights that are read and written, all threads together
    barrier: bool = True  # whether all threads wait for each other after it
    slots: float = 0.0  # the cost model's estimate, in vector multiply-adds of one core at its peak (0: none was made)
    chain: int = -1  # the chain of layers that this step is one band of, if any
    region: int = -1  # the region that it is in, where threads keep rows of their own, if any
    shares: tuple[tuple[str, float], ...] = ()  # of its weights, by layer, where it adds several layers up


@dataclass(frozen=True)
class Port:
    """An input or output: the shape of one image, without batch."""

    name: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        return int(np.prod(self.shape))


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything that running a network takes, as data: no pointers, no closures."""

    target: Target
    element: Element
    threads: int
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    steps: tuple[Step, ...]
    constants: npt.NDArray[np.uint8]
    arena_bytes: int
    clear_bytes: int  # at the arena's beginning, that must be zero before the first image; the rest may hold anything
    keys: tuple[str, ...] = ()  # of the outputs in the dict that the network returns, if it returns one

    def kernels(self) -> tuple[KernelSpec, ...]:
        """The distinct kernels, in order of first use."""
        return tuple(dict.fromkeys(step.kernel for step in self.steps))


@dataclass
class Constants:
    """Read-only data under construction; equal arrays are stored once."""

    _chunks: list[bytes] = field(default_factory=list)
    _size: int = 0
    _known: dict[bytes, int] = field(default_factory=dict)

    def add(self, array: npt.NDArray[np.generic]) -> int:
        """Store ``array``; returns the reference to it."""
        data = np.ascontiguousarray(array).tobytes()
        if data not in self._known:
            self._known[data] = self._size
            padded = data + bytes(-len(data) % ALIGNMENT)
            self._chunks.append(padded)
            self._size += len(padded)
        return reference(CONSTANTS, self._known[data])

    def block(self) -> npt.NDArray[np.uint8]:
        """All data, with slack for vectors that read past the last number."""
        return np.frombuffer(b"".join([*self._chunks, bytes(4 * ALIGNMENT)]), dtype=np.uint8)
