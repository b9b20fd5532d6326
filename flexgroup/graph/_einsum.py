"""``torch.einsum`` of two operands: permutations around one product of matrices."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from flexgroup.graph._call import Call, Rule, Unsupported, Value
from flexgroup.graph._factors import size_of
from flexgroup.graph._tokens import multiply
from flexgroup.graph._views import axes_of, has_batch, permute, reshape


def _einsum(call: Call) -> Value:
    equation, operands = str(call["equation"]).replace(" ", ""), list(call["tensors"])
    parts = re.fullmatch(r"([a-zA-Z]+),([a-zA-Z]+)->([a-zA-Z]*)", equation)
    letters = parts.groups() if parts else ()
    if parts is None or len(operands) != 2 or any(len(set(each)) < len(each) for each in letters):
        raise Unsupported(f"einsum({equation!r}) is not compiled; two operands, letters once each, and -> are")
    first, second, result = letters
    shared = [x for x in first if x in second]
    around, summed = [x for x in shared if x in result], [x for x in shared if x not in result]
    rows, columns = ([x for x in each if x not in shared] for each in (first, second))
    if any(x not in result for x in (*rows, *columns)):
        raise Unsupported(f"einsum({equation!r}) sums an axis of one operand alone; sum it before: x.sum(axis)")
    if around and any(isinstance(operand, torch.Tensor) for operand in operands):
        # A constant that has a matrix for each of some axes is the same for every image: the batch goes around too.
        pairs = zip((first, second), operands, strict=True)
        batched = [x for each, operand in pairs for x in _of_batch(call, operand, each) if x not in around]
        rows, columns = ([x for x in each if x not in batched] for each in (rows, columns))
        around = [*(x for x in batched if x in result), *around]
    sizes = {
        letter: size
        for each, x in zip((first, second), operands, strict=True)
        for letter, size in zip(each, _shape(call, x), strict=True)
    }
    left = _arranged(call, operands[0], first, (around, rows, summed), sizes)
    right = _arranged(call, operands[1], second, (around, summed, columns), sizes)
    product = multiply(call, left, right)
    order = [*around, *rows, *columns]
    apart = reshape(call, product, tuple(sizes[x] for x in order))
    return permute(call, apart, [order.index(x) for x in result])


def _of_batch(call: Call, x: Any, letters: str) -> str:
    """The letters of axes that the batch is in."""
    if isinstance(x, torch.Tensor):
        return ""
    return "".join(letter for letter, axis in zip(letters, axes_of(call, x), strict=True) if has_batch(axis))


def _shape(call: Call, x: Any) -> tuple[int, ...]:
    return tuple(x.shape) if isinstance(x, torch.Tensor) else tuple(map(size_of, axes_of(call, x)))


def _arranged(
    call: Call, x: Any, letters: str, groups: Sequence[Sequence[str]], sizes: Mapping[str, int]
) -> Value | torch.Tensor:
    """``x`` with its axes in the order of ``groups``: those of the first apart, those of the others as one each."""
    around, *others = groups
    missing = [letter for letter in around if letter not in letters]
    if isinstance(x, torch.Tensor) and missing:
        x = x.expand(*(sizes[letter] for letter in missing), *x.shape)
        letters = "".join(missing) + letters
    order = [letters.index(letter) for group in groups for letter in group]
    shape = (*(sizes[x] for x in around), *(math.prod(sizes[x] for x in group) for group in others))
    if isinstance(x, torch.Tensor):
        return x.permute(order).reshape(shape)
    return reshape(call, permute(call, x, order), shape)


RULES: Mapping[str, Rule] = {"aten.einsum": _einsum}
