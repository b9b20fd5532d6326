"""Channels among each other, and pixels to channels and back: reshapes and permutations that torch has names for."""

from __future__ import annotations

from collections.abc import Mapping

from flexgroup.graph import ir
from flexgroup.graph._call import Call, Rule, Value
from flexgroup.graph._views import permute, reshape


def to_pixels(call: Call, value: Value, channels: int, block: ir.Pair, places: tuple[int, ...]) -> Value:
    """The entries of blocks, which are channels at every one of ``places``, laid out beside each other as pixels."""
    apart = reshape(call, value, (call.batch, channels, *block, *places))
    size = (places[0] * block[0], places[1] * block[1])
    return reshape(call, permute(call, apart, (0, 1, 4, 2, 5, 3)), (call.batch, channels, *size))


def to_blocks(call: Call, value: Value, block: ir.Pair, places: tuple[int, ...], shape: tuple[int, ...]) -> Value:
    """The pixels of the blocks at ``places`` as further channels, seen as ``shape``: the inverse of `to_pixels`."""
    apart = reshape(call, value, (call.batch, value.shape[0], places[0], block[0], places[1], block[1]))
    return reshape(call, permute(call, apart, (0, 1, 3, 5, 2, 4)), shape)


def _channel_shuffle(call: Call) -> Value:
    value, groups = call.image("self"), int(call["groups"])
    channels, *size = value.shape
    apart = reshape(call, value, (call.batch, groups, channels // groups, *size))
    return reshape(call, permute(call, apart, (0, 2, 1, 3, 4)), call.result)


def _pixel_shuffle(call: Call) -> Value:
    value, factor = call.image("self"), int(call["upscale_factor"])
    channels, *size = value.shape
    return to_pixels(call, value, channels // factor**2, (factor, factor), tuple(size))


def _pixel_unshuffle(call: Call) -> Value:
    value, factor = call.image("self"), int(call["downscale_factor"])
    _, height, width = value.shape
    return to_blocks(call, value, (factor, factor), (height // factor, width // factor), call.result)


RULES: Mapping[str, Rule] = {
    "aten.channel_shuffle": _channel_shuffle,
    "aten.native_channel_shuffle": _channel_shuffle,
    "aten.pixel_shuffle": _pixel_shuffle,
    "aten.pixel_unshuffle": _pixel_unshuffle,
}
