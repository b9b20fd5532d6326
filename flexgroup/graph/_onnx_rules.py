"""Which rule lowers which operator of ONNX."""

from __future__ import annotations

from collections.abc import Mapping

from flexgroup.graph._onnx_call import OnnxRule
from flexgroup.graph._onnx_elementwise import ELEMENTWISE
from flexgroup.graph._onnx_moves import MOVES
from flexgroup.graph._onnx_resize import RESIZE
from flexgroup.graph._onnx_tokens import TOKENS
from flexgroup.graph._onnx_weighted import WEIGHTED
from flexgroup.graph._onnx_windows import WINDOWS

ONNX_RULES: Mapping[str, OnnxRule] = {**WEIGHTED, **ELEMENTWISE, **WINDOWS, **MOVES, **RESIZE, **TOKENS}
