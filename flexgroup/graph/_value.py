"""What a lowering rule takes and gives: activations, views of them, and what could not be lowered."""

from __future__ import annotations

from dataclasses import dataclass

from flexgroup.graph._factors import Axes
from flexgroup.graph._validate import Shape

BATCH = -1  # the stored axis that stands for the batch
BATCH_MOVES = "it changes the first axis, which is the batch; keep the batch apart and first"


@dataclass(frozen=True)
class Value:
    """An activation: its name in the graph, and its shape as torch sees it, without torch's first axis.

    A view may make that another shape than the graph notes: (channels, 1, 1) seen as (channels, 1). Without ``axes``
    it is a plain reshape behind the batch. ``axes`` are those of torch, the one with the batch included, in factors of
    the stored axes. Only rules that ask for it (`Call.viewed`) get to see such a value.
    """

    name: str
    shape: Shape
    axes: Axes | None = None


@dataclass(frozen=True)
class Unknown:
    """What an operator would have given that is not supported: its readers cannot be judged."""


class Unsupported(Exception):
    """The graph has no word for this operator; the text says what would help."""
