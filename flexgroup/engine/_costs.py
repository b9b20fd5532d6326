"""The constants of the cost model: what kernels cost on a kind of machine.

The unit is the *slot*: one vector multiply-add at the machine's peak, or one aligned vector load, which overlap.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from flexgroup.kernels import LINE, Target


@dataclass(frozen=True)
class Costs:
    """Slots of everything that `_work` counts. The defaults were fitted by hand on cores with AVX-512 and 1 MiB of L2.

    `default_costs` has those of a target; on the machine at hand they are measured (`_calibrate`).
    """

    aligned_load: float = 1.0  # a vector of activations
    displaced_load: float = 2.0  # one displaced by a tap, which mostly crosses a cache line
    missed_load: float = 3.5  # more for one that misses the first-level cache
    copy: float = 2.5  # a vector that is copied to a panel
    late: float = 15.0  # what is not copied, and beyond the second-level cache: the wait for a plane, with every tile
    weight: float = 1.0  # a weight that is loaded to all lanes
    position: float = 1.3  # a position that is loaded to all lanes, where channels lie in lanes
    group: float = 1.0  # a group, beside its loads and multiply-adds
    row: float = 9.0  # an inner loop's exit, most of it a mispredicted branch
    store: float = 3.0  # bias, clamp, mask and store of one vector
    turn: float = 7.0  # the same for a channel of a tile that is transposed to planes
    stream: float = 8.0  # 64 bytes of weights, for the first tile
    stream_again: float = 2.0  # for the tiles after it, where weights stay in the second-level cache
    stream_only: float = 8.0  # 64 bytes of weights that are used only once
    near: float = 1.5  # 64 bytes of activations from or to the second-level cache
    far_read: float = 6.0  # from beyond it
    far_write: float = 17.0
    swept_read: float = 3.0  # the same where few planes are read and written at a time, so that hardware fetches ahead
    swept_write: float = 8.0
    call: float = 250.0  # a kernel's start: arguments, masks, the first misses
    window: float = 1.3  # an entry of a depthwise window on a vector
    window_strided: float = 2.5
    window_max: float = 2.0  # more, if the largest entry is wanted
    window_plane: float = 20.0  # a plane of a depthwise convolution
    move: float = 4.0  # a vector that is copied or filled
    move_strided: float = 12.0  # one whose elements lie apart
    move_row: float = 6.0  # a row that is copied


def default_costs(target: Target) -> Costs:
    """The constants for a target that nothing was measured on.

    Memory is as slow for one of its own vectors as for the widest, so that a cache line takes several times as long.
    """
    usual, share = Costs(), LINE / target.vector_bytes
    lines = ("near", "far_read", "far_write", "swept_read", "swept_write")
    return replace(usual, **{name: getattr(usual, name) * share for name in lines})
