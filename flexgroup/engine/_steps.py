"""From operations to steps: every table of offsets, packed weight and mask that the kernels read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from flexgroup.engine import _steps_conv, _steps_other
from flexgroup.engine._choose import Chooser
from flexgroup.engine._layout import Image, Layout
from flexgroup.engine._operations import (
    Operation,
    Tap,
)
from flexgroup.engine._plan import Constants, Step
from flexgroup.kernels import (
    Element,
    KernelSpec,
    Target,
)

Fields = dict[str, int]


class StepBuilder:
    """Turns placed operations into steps and collects their constants."""

    def __init__(
        self,
        layout: Layout,
        target: Target,
        element: Element,
        *,
        threads: int,
        sparse: bool,
        inputs: int,
        chooser: Chooser,
    ) -> None:
        self.layout = layout
        self.target = target
        self.element = element
        self.threads = threads
        self.sparse = sparse
        self.constants = Constants()
        self.input_count = inputs
        self.chooser = chooser

    def build(self, operation: Operation) -> Step:
        """The step that runs ``operation``."""
        return _BUILDERS[type(operation)](self, operation)

    def table(self, offsets: Sequence[int] | npt.NDArray[np.int64]) -> int:
        return self.constants.add(np.asarray(offsets, dtype=np.int32))

    def planes(self, image: Image) -> list[int]:
        return [self.layout.offset(ref) for ref in image.planes]

    def tap(self, tap: Tap, pitch: int) -> int:
        return self.layout.offset(tap.plane) + (tap.row * pitch + tap.column) * self.element.bytes

    def positions(self, image: Image, inside: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """An array over pixels (..., height, width) as rows over a plane's positions; the border is zero."""
        pitch, vectors = self.layout.pitch(image), self.layout.vectors(image)
        spread = np.zeros((*inside.shape[:-1], pitch), dtype=inside.dtype)
        spread[..., : image.width] = inside
        flat = np.zeros((*inside.shape[:-2], vectors * self.layout.lanes), dtype=inside.dtype)
        flat[..., : image.height * pitch] = spread.reshape(*inside.shape[:-2], -1)
        return flat

    def mask(self, image: Image) -> int:
        return self.constants.add(self.positions(image, np.full((image.height, image.width), -1, np.int32)))

    def by_range(self, name: str, kernel: KernelSpec, fields: Fields, count: int, dense_macs: int = 0) -> Step:
        """A step whose items ``first..last`` are shared out evenly."""
        bounds = [count * part // self.threads for part in range(self.threads + 1)]
        parts = [
            tuple(kernel.signature.pack(fields | {"first": a, "last": b})) if b > a else None
            for a, b in pairwise(bounds)
        ]
        return Step(name, kernel, tuple(parts), dense_macs, dense_macs, dense_macs)


_BUILDERS: Mapping[type, Callable[[StepBuilder, Any], Step]] = {**_steps_conv.BUILDERS, **_steps_other.BUILDERS}
