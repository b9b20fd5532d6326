"""What to tell a user about an ONNX operator that has no rule."""

from __future__ import annotations

_FAMILIES = {
    "export with fixed shapes and without control flow, or simplify the model with its shapes known": (
        "If, Loop, Scan, NonZero, Where, Range, SequenceAt, SequenceConstruct, SplitToSequence, ConcatFromSequence"
    ),
    "recurrent layers are not compiled; compile the part before them": "LSTM, GRU, RNN",
    "resize and convolve, or compile the parts before and after it separately": "GridSample, DeformConv",
    "use batch norm, whose statistics are fixed after training": "MeanVarianceNormalization",
    "end the model before it, and apply it to the compiled network's output": (
        "ArgMax, ArgMin, TopK, NonMaxSuppression, Hardmax, GatherND, ScatterND, ScatterElements, "
        "GatherElements, OneHot, CumSum"
    ),
    "remove random numbers from the model": (
        "RandomNormal, RandomNormalLike, RandomUniform, RandomUniformLike, Bernoulli"
    ),
}

_HINTS = {operator: hint for hint, operators in _FAMILIES.items() for operator in operators.split(", ")}


def onnx_hint_for(operator: str) -> str:
    """What would help with ``operator``, written ``LSTM`` or, outside of ONNX's own domain, ``com.microsoft.Gelu``."""
    if "." in operator:
        return "it is not one of ONNX's own operators; export without optimisations that are made for one runtime"
    return _HINTS.get(operator, "replace it by supported operators, or compile only the part of the model without it")
