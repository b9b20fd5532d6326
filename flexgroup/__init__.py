"""flexgroup: prune PyTorch networks in flexible groups, compile what is left into fast native code.

Public names are loaded on first use, so that ``import flexgroup`` is quick and imports neither torch nor numba.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flexgroup._errors import FlexgroupError as FlexgroupError
    from flexgroup.deploy import export as export
    from flexgroup.engine import CompiledModel as CompiledModel
    from flexgroup.engine import compile as compile
    from flexgroup.groups import Groups as Groups
    from flexgroup.groups import Selection as Selection
    from flexgroup.groups import select as select
    from flexgroup.pruning import Cubic as Cubic
    from flexgroup.pruning import OneShot as OneShot
    from flexgroup.pruning import Pruner as Pruner
    from flexgroup.pruning import finetune as finetune

__version__ = "0.1.0"

_HOMES = {
    "FlexgroupError": "flexgroup._errors",
    "Groups": "flexgroup.groups",
    "Selection": "flexgroup.groups",
    "select": "flexgroup.groups",
    "Pruner": "flexgroup.pruning",
    "Cubic": "flexgroup.pruning",
    "OneShot": "flexgroup.pruning",
    "finetune": "flexgroup.pruning",
    "compile": "flexgroup.engine",
    "CompiledModel": "flexgroup.engine",
    "export": "flexgroup.deploy",
}

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'flexgroup' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
