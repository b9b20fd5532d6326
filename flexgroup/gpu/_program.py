"""A plan on a device: its buffers, its kernels with their arguments, and the loop over a batch."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flexgroup._errors import FlexgroupError
from flexgroup.engine import Plan
from flexgroup.engine._plan import ARENA, CONSTANTS, FIRST_EXTERNAL
from flexgroup.gpu._device import Device
from flexgroup.gpu._launch import Launch, check_supported, launch

ADDRESSABLE = 1 << 31  # bytes that the kernels' tables of 32-bit offsets can reach

Arrays = list[npt.NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class _Call:
    """A launch and the kernel that holds its arguments."""

    launch: Launch
    kernel: Any


class Program:
    """A plan's kernels and memory on one device.

    Constants are uploaded once. Every other region (arena, inputs, outputs) has room for several images side by side,
    and every launch computes all of them; the room grows with the largest batch, up to the device's share.
    """

    def __init__(self, plan: Plan, device: Device) -> None:
        if max(plan.arena_bytes, plan.constants.nbytes) >= ADDRESSABLE:
            raise FlexgroupError(
                f"the network takes {plan.constants.nbytes >> 20} MiB of weights and {plan.arena_bytes >> 20} MiB of "
                f"activations an image, but OpenCL code reaches {ADDRESSABLE >> 20} MiB of each; use smaller inputs"
            )
        check_supported(plan.steps)
        self.plan = plan
        self.device = device
        self._busy = threading.Lock()
        self._images = [plan.constants.nbytes, plan.arena_bytes]  # bytes of one image in every region
        self._images += [port.elements * plan.element.bytes for port in (*plan.inputs, *plan.outputs)]
        launches = [launch(step, device.parallelism) for step in plan.steps]
        self._calls = [_Call(each, device.kernel(each.family, each.options)) for each in launches]
        for call in self._calls:
            first = 1 + 2 * len(call.launch.regions)
            for position, value in enumerate(call.launch.arguments):
                call.kernel.set_arg(first + position, np.uint32(value))
        self._queue = device.queue()
        self._room = 0
        self._regions: list[Any] = [self._buffer(plan.constants.nbytes)]
        device.cl.enqueue_copy(self._queue, self._regions[CONSTANTS], plan.constants)
        self._reserve(1)

    def run(self, inputs: Arrays, outputs: Arrays) -> None:
        """Fill ``outputs`` (dense, batch first) from ``inputs``."""
        with self._busy:
            images = len(inputs[0])
            self._reserve(images)
            pending = []  # a copy's event that is dropped waits for the copy
            for first in range(0, images, self._room):
                batch = slice(first, first + self._room)
                pending += self._move(inputs, batch, FIRST_EXTERNAL, into=True)
                self._enqueue(self._queue, min(self._room, images - first))
                pending += self._move(outputs, batch, FIRST_EXTERNAL + len(inputs), into=False)
            self._queue.finish()

    def time_steps(self, inputs: Arrays, rounds: int) -> npt.NDArray[np.float64]:
        """Seconds of every step for the first image by the device's own clock, as a (rounds, steps) array."""
        with self._busy:
            self._reserve(1)
            self._move(inputs, slice(0, 1), FIRST_EXTERNAL, into=True)
            self._queue.finish()
            queue = self.device.queue(timed=True)
            seconds = np.zeros((rounds, len(self._calls)))
            for round_seconds in seconds:
                events = self._enqueue(queue, 1)
                queue.finish()
                round_seconds[:] = [(event.profile.end - event.profile.start) * 1e-9 for event in events]
        return seconds

    def close(self) -> None:
        """Give the device's memory back."""
        with self._busy:
            self._queue.finish()
            for region in self._regions:
                region.release()
            self._regions, self._calls, self._room = [], [], 0

    def _enqueue(self, queue: Any, images: int) -> list[Any]:
        """Every step for ``images`` images, in order, without waiting; returns their events."""
        group = self.device.group
        run = self.device.cl.enqueue_nd_range_kernel
        return [
            run(queue, call.kernel, (-(-call.launch.items // group) * group, images), (group, 1))
            for call in self._calls
        ]

    def _move(self, arrays: Arrays, batch: slice, first_region: int, *, into: bool) -> list[Any]:
        """Copy a batch of the caller's ``arrays`` into their regions, or out of them, without waiting; the events."""
        events = []
        for region, array in zip(self._regions[first_region:], arrays, strict=False):
            pair = (region, array[batch]) if into else (array[batch], region)
            events.append(self.device.cl.enqueue_copy(self._queue, *pair, is_blocking=False))
        return events

    def _reserve(self, images: int) -> None:
        """Make room for ``images`` images, or for as many as the device's share of memory holds."""
        if not self._calls:
            raise FlexgroupError("this model was closed; compile it again")
        images = max(1, min(images, self.device.memory // max(self._images[ARENA:])))
        if images <= self._room:
            return
        self._queue.finish()
        for region in self._regions[ARENA:]:
            region.release()
        self._regions[ARENA:] = [self._buffer(images * size) for size in self._images[ARENA:]]
        self._room = images
        # Kernels never write the borders of planes: they are zero from here on.
        arena = self._regions[ARENA]
        self.device.cl.enqueue_fill_buffer(self._queue, arena, np.uint32(0), 0, images * self._images[ARENA])
        for call in self._calls:
            call.kernel.set_arg(0, self._regions[CONSTANTS])
            for i, region in enumerate(call.launch.regions):
                call.kernel.set_arg(1 + 2 * i, self._regions[region])
                # Constants are the same for every image.
                own = self._images[region] if region != CONSTANTS else 0
                call.kernel.set_arg(2 + 2 * i, np.uint32(own // self.plan.element.bytes))

    def _buffer(self, size: int) -> Any:
        cl = self.device.cl
        try:
            return cl.Buffer(self.device.context, cl.mem_flags.READ_WRITE, size)
        except cl.Error:
            raise FlexgroupError(
                f"device {self.device.name} cannot give {size >> 20} MiB in one piece, which the network needs; "
                "use smaller inputs or another device"
            ) from None
