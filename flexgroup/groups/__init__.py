"""What a group is, and which ones to keep: exact selection by price. Needs numpy and numba only, never torch."""

from flexgroup.groups._cover import cover
from flexgroup.groups._request import BUDGETS, METHODS, Limits
from flexgroup.groups._select import select
from flexgroup.groups._selection import Selection
from flexgroup.groups._spec import Groups

__all__ = ["BUDGETS", "METHODS", "Groups", "Limits", "Selection", "cover", "select"]
