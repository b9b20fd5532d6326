"""The engine's plan on any OpenCL device: phones' and desktops' GPUs, and processors through PoCL. Needs pyopencl."""

from flexgroup.gpu._device import Device, find_device
from flexgroup.gpu._model import GpuModel, compile

__all__ = ["Device", "GpuModel", "compile", "find_device"]
