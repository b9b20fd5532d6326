"""The OpenCL device that a network runs on, and the programs that were built for it."""

from __future__ import annotations

import importlib
import warnings
from importlib import resources
from typing import Any

from flexgroup._errors import FlexgroupError

GPU_GROUP, CPU_GROUP = 64, 8  # work-items that a compute unit takes at a time
GPU_OCCUPANCY, CPU_OCCUPANCY = 512, 32  # work-items a compute unit that keep it busy
MEMORY = 256 << 20  # bytes of activations that a batch may take: the rest of it follows in another round


class Device:
    """An OpenCL device with its context and every program that was built in it.

    Models that are compiled for one `Device` share its programs: the next network of the same kind builds nothing.
    """

    def __init__(self, cl: Any, device: Any) -> None:
        self.cl = cl
        self.name = f"{device.name.strip()} ({device.platform.name.strip()})"
        self.context = cl.Context([device])
        is_gpu = bool(device.type & (cl.device_type.GPU | cl.device_type.ACCELERATOR))
        self.group = min(GPU_GROUP if is_gpu else CPU_GROUP, int(device.max_work_group_size))
        """Work-items of a work-group."""
        self.parallelism = int(device.max_compute_units) * (GPU_OCCUPANCY if is_gpu else CPU_OCCUPANCY)
        """Work-items that keep the whole device busy."""
        self.memory = min(MEMORY, int(device.max_mem_alloc_size))
        """Bytes that the activations of a batch may take."""
        self._programs: dict[tuple[str, tuple[str, ...]], Any] = {}

    def __repr__(self) -> str:
        return f"Device({self.name!r})"

    def queue(self, *, timed: bool = False) -> Any:
        """A new queue that runs its commands in order, and records when if ``timed``."""
        properties = self.cl.command_queue_properties.PROFILING_ENABLE if timed else 0
        return self.cl.CommandQueue(self.context, properties=properties)

    def kernel(self, family: str, options: tuple[str, ...]) -> Any:
        """The kernel ``family``, built from ``kernels/family.cl`` with ``options``; its arguments are the caller's own.

        Raises `FlexgroupError` with the compiler's first words if the device's compiler refuses the program.
        """
        key = (family, options)
        if key not in self._programs:
            self._programs[key] = self._build(family, options)
        return self.cl.Kernel(self._programs[key], family)

    def _build(self, family: str, options: tuple[str, ...]) -> Any:
        folder = resources.files("flexgroup.gpu") / "kernels"
        text = "\n".join((folder / f"{name}.cl").read_text(encoding="utf-8") for name in ("common", "curves", family))
        definitions = [word for option in options for word in ("-D", option)]
        try:
            with warnings.catch_warnings():
                # A compiler that merely says something is no news for the user of a network.
                warnings.simplefilter("ignore", self.cl.CompilerWarning)
                return self.cl.Program(self.context, text).build(options=definitions)
        except self.cl.Error as error:
            reason = " ".join(str(error).split())[:300]
            raise FlexgroupError(
                f"device {self.name}: its OpenCL compiler cannot build the kernel {family!r} with "
                f"{' '.join(options)}: {reason}; please report this, or choose another device"
            ) from None


def find_device(name: str | None = None) -> Device:
    """Open the first OpenCL device whose name or platform contains ``name``; without one the first GPU, or any device.

    Raises `FlexgroupError` if pyopencl is not installed, if there is no device, or if none has this name.
    """
    cl = _pyopencl()
    try:
        platforms = cl.get_platforms()
    except cl.Error:  # the loader reports "no platforms" as an error
        platforms = []
    found = [device for platform in platforms for device in _devices(cl, platform)]
    if not found:
        raise FlexgroupError(
            "no OpenCL device was found; install your GPU's driver, or run on the processor: "
            "pip install pocl-binary-distribution"
        )
    if name is None:
        return Device(cl, next((device for device in found if device.type & cl.device_type.GPU), found[0]))
    for device in found:
        if name.lower() in f"{device.name} {device.platform.name}".lower():
            return Device(cl, device)
    known = ", ".join(f"{device.name.strip()} ({device.platform.name.strip()})" for device in found)
    raise FlexgroupError(f"no OpenCL device is called {name!r}; there are: {known}")


def _devices(cl: Any, platform: Any) -> list[Any]:
    try:
        return list(platform.get_devices())
    except cl.Error:  # a platform without devices reports that as an error
        return []


def _pyopencl() -> Any:
    try:
        return importlib.import_module("pyopencl")
    except ImportError as error:
        raise FlexgroupError(
            f'flexgroup.gpu needs pyopencl, which cannot be imported ({error}); pip install "flexgroup[gpu]", and on '
            "machines without an OpenCL driver also pip install pocl-binary-distribution"
        ) from None
