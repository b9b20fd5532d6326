"""What kernels do to their results, in numpy: the clamp, then the curve."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np

from flexgroup.graph.ir import slope_of


def number(bits: int) -> np.float32:
    return np.float32(struct.unpack("<f", struct.pack("<I", bits))[0])


def activated(kernel: Any, f: dict[str, int], value: np.ndarray) -> np.ndarray:
    """``curve(clamp(value))`` with the bounds in ``f`` and the curve of ``kernel``."""
    clamped = np.clip(value, number(f["low"]), number(f["high"]))
    return clamped if not kernel.curve else curve(kernel.curve, clamped.astype(np.float64)).astype(np.float32)


def curve(kind: str, x: np.ndarray) -> np.ndarray:
    slope = slope_of(kind)
    if slope is not None:
        return np.where(x > 0, x, slope * x)
    return {
        "sigmoid": lambda: 1 / (1 + np.exp(-x)),
        "silu": lambda: x / (1 + np.exp(-x)),
        "hard_swish": lambda: x * np.clip(x + 3, 0, 6) / 6,
        "tanh": lambda: np.tanh(x),
        "gelu": lambda: x / 2 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
        "gelu_tanh": lambda: x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        "softplus": lambda: np.logaddexp(x, 0),
        "log": lambda: np.log(x),
        "exp": lambda: np.exp(x),
        "sqrt": lambda: np.sqrt(x),
        "reciprocal": lambda: 1 / x,
        "erf": lambda: np.vectorize(math.erf)(x),
        "mish": lambda: x * np.tanh(np.log1p(np.exp(x))),
    }[kind]()
