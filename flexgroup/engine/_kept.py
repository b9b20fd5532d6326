"""Values that are made once and then read from the disk: `kept`, and the keys of graphs and plans."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import flexgroup
from flexgroup.engine._cache import LARGEST, content_key, source_digest, this_cache
from flexgroup.engine._costs import Costs
from flexgroup.engine._serial import from_bytes, to_bytes
from flexgroup.kernels import Element, Target

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

GRAPH, PLAN = "graph", "plan"


def kept(
    kind: str,
    key: str | None,
    make: Callable[[], T],
    expected: type[T],
    good: Callable[[T], bool] = lambda _: True,
) -> T:
    """What ``make`` gives: read from the cache if it holds an entry of this kind and key, else made and kept there.

    An entry that is no longer ``good`` is made anew. Nothing is looked up or kept without a ``key``.
    """
    cache = this_cache()
    if key is None or cache.folder is None:
        return make()
    data = cache.get(kind, key)
    if data is not None:
        try:
            found = from_bytes(data)
        except ValueError:
            cache.discard(kind, key)
        else:
            if isinstance(found, expected) and good(found):
                return found
    value = make()
    with contextlib.suppress(TypeError, ValueError):  # nothing that can be written, or too much of it
        cache.put(kind, key, to_bytes(value, LARGEST))
        cache.trim()
    return value


@dataclass(frozen=True)
class Keys:
    """Under what a torch module's graph and plan are kept; None where they are not."""

    graph: str | None = None
    plan: str | None = None

    def forget(self) -> None:
        """Remove both, because they are wrong."""
        for kind, key in ((GRAPH, self.graph), (PLAN, self.plan)):
            if key is not None:
                this_cache().discard(kind, key)


def keys_of(
    model: torch.nn.Module,
    example: tuple[torch.Tensor, ...],
    target: Target,
    *,
    threads: int,
    sparse: bool,
    costs: Costs,
    element: Element,
) -> Keys:
    """The keys of what ``model`` compiles to; none where the cache is off or no digest of the model can be told."""
    from flexgroup.engine._fingerprint import fingerprint

    reading, planning = source_digest("graph"), source_digest("engine", "groups", "kernels")
    if this_cache().folder is None or reading is None or planning is None:
        return Keys()
    model_digest = fingerprint(model, example)
    if model_digest is None:
        return Keys()
    graph = content_key([model_digest, flexgroup.__version__, reading])
    return Keys(
        graph, content_key([graph, repr(target), str(threads), str(sparse), repr(costs), repr(element), planning])
    )
