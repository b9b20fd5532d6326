"""Pruning in training loops of other libraries: one thin file a library, which only its own users import.

``flexgroup.integrations.transformers`` and ``flexgroup.integrations.lightning`` each have a `PruningCallback`.
"""

from flexgroup.integrations._state import plain_state

__all__ = ["plain_state"]
