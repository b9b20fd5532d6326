"""What an engine is to the benchmark: how it is installed, how it gets the network, how it is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Call = Callable[[], Any]


@dataclass(frozen=True)
class Environment:
    """A virtual environment: its folder's name, and what pip is told, one tuple of arguments a call.

    ``newest_python`` is the last minor version (of 3) that the packages have wheels for.
    """

    name: str
    installs: tuple[tuple[str, ...], ...]
    newest_python: int | None = None


@dataclass(frozen=True)
class Files:
    """Where an engine finds a network (`_cases.Case`), and its own folder for what it makes of it."""

    case: Path
    own: Path

    @property
    def onnx(self) -> Path:
        return self.case / "model.onnx"

    def example(self) -> Array:
        """The input, (1, channels, height, width)."""
        return np.load(self.case / "input.npy")  # type: ignore[no-any-return]


class Engine:
    """One row of the table. Subclasses import their engine inside of methods: the driver does not have it.

    ``convert`` and ``load`` run in a process of the engine's environment, `convert` once for a network.
    """

    key: ClassVar[str]
    """As the command line and folders name it."""
    name: ClassVar[str]
    """As tables name it."""
    precision: ClassVar[str] = "fp32"
    environment: ClassVar[Environment | None] = None
    """None: the interpreter that runs the benchmark."""
    distributions: ClassVar[tuple[str, ...]]
    """Whose versions are reported."""
    sparse: ClassVar[bool] = False
    """Whether it makes use of zeros: then it runs the pruned networks too."""
    dense: ClassVar[bool] = True
    """Whether it runs the dense network."""
    unaligned: ClassVar[bool] = False
    """Whether it runs the networks with unaligned groups as well."""
    tolerance: ClassVar[float] = 1e-2
    """Largest accepted difference to PyTorch, relative to the largest output: fast convolutions lose digits."""
    variables: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """Environment variables of its process."""
    options: ClassVar[str] = ""
    """What it is told beyond its defaults, for the reader of the results."""

    @property
    def converts(self) -> bool:
        """Whether it has a form of its own."""
        return type(self).convert is not Engine.convert

    def convert(self, files: Files) -> None:
        """Write the engine's own form of the network to ``files.own``; nothing for those that read ONNX."""

    def load(self, files: Files, threads: int) -> Call:
        """The network, ready to be called with its input already bound; returns the output, (1, classes)."""
        raise NotImplementedError

    def versions(self) -> dict[str, str]:
        """The installed versions of `distributions`."""
        found = {}
        for name in self.distributions:
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                continue
        return found
