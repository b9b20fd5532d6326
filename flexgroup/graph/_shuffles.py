"""Channels among each other, and pixels to channels and back: reshapes and permutations that torch has names for."""

from __future__ import annotations

from collections.abc import Mapping

from flexgroup.graph._call import Call, Rule, Value
from flexgroup.graph._views import permute, reshape


def _channel_shuffle(call: Call) -> Value:
    value, groups = call.image("self"), int(call["groups"])
    channels, *size = value.shape
    apart = reshape(call, value, (call.batch, groups, channels // groups, *size))
    return reshape(call, permute(call, apart, (0, 2, 1, 3, 4)), call.result)


def _pixel_shuffle(call: Call) -> Value:
    value, factor = call.image("self"), int(call["upscale_factor"])
    channels, *size = value.shape
    apart = reshape(call, value, (call.batch, channels // factor**2, factor, factor, *size))
    return reshape(call, permute(call, apart, (0, 1, 4, 2, 5, 3)), call.result)


def _pixel_unshuffle(call: Call) -> Value:
    value, factor = call.image("self"), int(call["downscale_factor"])
    channels, height, width = value.shape
    apart = reshape(call, value, (call.batch, channels, height // factor, factor, width // factor, factor))
    return reshape(call, permute(call, apart, (0, 1, 3, 5, 2, 4)), call.result)


RULES: Mapping[str, Rule] = {
    "aten.channel_shuffle": _channel_shuffle,
    "aten.native_channel_shuffle": _channel_shuffle,
    "aten.pixel_shuffle": _pixel_shuffle,
    "aten.pixel_unshuffle": _pixel_unshuffle,
}
