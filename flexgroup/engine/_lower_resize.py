"""How resizing becomes an operation: one kernel for every ratio."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from flexgroup.engine._operations import ResizeOp
from flexgroup.graph import ir

if TYPE_CHECKING:
    from flexgroup.engine._lower import Lowering, Rule
    from flexgroup.engine._values import Value


def _resize(lowering: Lowering, node: ir.Node, op: ir.Resize) -> Value:
    image, layout = lowering.image(node.inputs[0]), lowering.layout
    out = lowering.new_output(node)
    if out.width < layout.lanes:
        for buffer in {ref.buffer for ref in out.planes}:
            layout.buffers[buffer].slack = layout.lanes  # rows are stored as whole vectors
    columns = -(-image.width // layout.lanes) * layout.lanes
    scratch = layout.new_scratch(layout.threads * columns * layout.lanes)
    lowering.append(ResizeOp(node.name, op.rows, op.columns, image, out, scratch))
    return out


RULES: Mapping[type, Rule] = {ir.Resize: _resize}
