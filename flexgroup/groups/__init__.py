"""What a group is, and which ones to keep: exact selection by price. Needs numpy and numba only, never torch.

`select` is loaded on first use: the compiler needs groups but no selection, and starts faster without numba.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flexgroup.groups._cover import cover
from flexgroup.groups._request import BUDGETS, METHODS, Limits
from flexgroup.groups._selection import Selection
from flexgroup.groups._spec import Groups

if TYPE_CHECKING:
    from flexgroup.groups._relaxed import select_relaxed as select_relaxed
    from flexgroup.groups._select import select as select

__all__ = ["BUDGETS", "METHODS", "Groups", "Limits", "Selection", "cover", "select", "select_relaxed"]


def __getattr__(name: str) -> Any:
    if name == "select":
        from flexgroup.groups._select import select

        return select
    if name == "select_relaxed":
        from flexgroup.groups._relaxed import select_relaxed

        return select_relaxed
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
