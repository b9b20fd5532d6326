"""What a value of the graph may be while it is lowered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from flexgroup.engine._layout import External, Image, Vector
from flexgroup.engine._view import View


@dataclass(frozen=True)
class Crop:
    """Every ``step``-th pixel of the value ``source`` from ``start`` on, not yet copied anywhere."""

    source: str
    start: tuple[int, int]
    step: tuple[int, int]
    height: int
    width: int


Value: TypeAlias = Image | Vector | External | Crop | View
