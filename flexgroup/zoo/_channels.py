"""How the MobileNets round a width to a number of channels."""

from __future__ import annotations


def divisible(channels: float, divisor: int = 8) -> int:
    """``channels`` rounded to a multiple of ``divisor``: the nearest, or the next if that were more than 10 % below.

    At least ``divisor``. ``divisible(36.0)`` is 40, ``divisible(11.0)`` is 16 and not 8.
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded
