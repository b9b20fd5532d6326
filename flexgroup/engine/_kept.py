"""Values that are made once and then read from the disk: `kept`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from flexgroup.engine._cache import this_cache
from flexgroup.engine._serial import from_bytes, to_bytes

T = TypeVar("T")


def kept(kind: str, key: str | None, make: Callable[[], T], expected: type[T]) -> T:
    """What ``make`` gives: read from the cache if it holds an entry of this kind and key, else made and kept there.

    Nothing is looked up or kept without a ``key``.
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
            if isinstance(found, expected):
                return found
    value = make()
    cache.put(kind, key, to_bytes(value))
    cache.trim()
    return value
