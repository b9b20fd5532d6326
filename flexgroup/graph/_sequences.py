"""Sequences (channels, length) as images with one row: what is known of images holds for them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from flexgroup.graph._call import Call, Rule, Unsupported, Value
from flexgroup.graph._views import reshape

# What windows along a row have across it.
_ACROSS = {"kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1}


def as_image(call: Call, value: Value) -> Value:
    """``value`` as (channels, height, width); what is behind the channels is one row unless it is an image's."""
    channels, *around = value.shape
    sides = around if len(around) == 2 else (1, math.prod(around))
    return reshape(call, value, (call.batch, channels, *sides))


def of_one_row(call: Call, rule: Rule, name: str, others: Mapping[str, Any] | None = None) -> Value:
    """What ``rule``, which is for images, makes of the sequence ``name``; ``others`` are arguments it takes instead."""
    if len(call.result) != 3:
        raise Unsupported("it reads other than sequences (batch, channels, length)")
    lifted = {**call.arguments, **(others or {}), name: as_image(call, call.viewed(name))}
    for argument, across in _ACROSS.items():
        along = call.get(argument)
        if isinstance(along, int):
            lifted[argument] = (across, along)
        elif along and not isinstance(along, str):
            lifted[argument] = (across, *along)
    result = rule(call.given(lifted, (*call.result[:2], 1, call.result[2])))
    assert isinstance(result, Value), "one image comes of one image"
    return reshape(call, result, call.result)
