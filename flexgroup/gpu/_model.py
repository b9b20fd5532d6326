"""`compile`: from a torch module to a callable that runs on an OpenCL device, checked against torch on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from flexgroup._errors import FlexgroupError
from flexgroup.engine import Explanation, Plan, Profile, plan_graph
from flexgroup.engine._agreement import agrees, difference, tolerance_of
from flexgroup.engine._calls import first_image, input_arrays, results_like
from flexgroup.engine._explain import explain_plan
from flexgroup.engine._profile import profile_rows
from flexgroup.gpu._device import Device, find_device
from flexgroup.gpu._launch import OPENCL
from flexgroup.gpu._program import Program

if TYPE_CHECKING:
    import torch


class GpuModel:
    """A network on an OpenCL device: call it with what the module took, any batch size.

    Torch tensors in give torch tensors out; numpy arrays give numpy arrays: one, a tuple of them, or a dict, as the
    module returns them. A model may be called from several Python threads; calls run one after another.
    """

    def __init__(self, plan: Plan, device: Device) -> None:
        self.plan = plan
        self.device = device
        self.error = 0.0
        """Largest difference to torch on the example, relative to the largest output."""
        self._program = Program(plan, device)

    def __call__(self, *inputs: Any) -> Any:
        """Run the network on a batch; raises `FlexgroupError` for wrong shapes or element types."""
        arrays = input_arrays(self.plan.inputs, inputs)
        results = [np.empty((len(arrays[0]), *port.shape), dtype=np.float32) for port in self.plan.outputs]
        self._program.run(arrays, results)
        return results_like(inputs, results, self.plan.keys)

    def profile(self, *inputs: Any, rounds: int = 50) -> Profile:
        """Time every step on the first image of ``inputs`` by the device's clock: medians over ``rounds`` runs."""
        arrays = first_image(self.plan.inputs, inputs)
        self._program.time_steps(arrays, 3)
        return profile_rows(self.plan, self._program.time_steps(arrays, rounds))

    def explain(self) -> Explanation:
        """For every layer what was chosen and why."""
        return explain_plan(self.plan)

    def close(self) -> None:
        """Give the device's memory back. The model cannot be called afterwards."""
        self._program.close()


def compile(
    model: torch.nn.Module,
    example: tuple[torch.Tensor, ...],
    *,
    device: Device | str | None = None,
    sparse: bool = True,
    tolerance: float | None = None,
) -> GpuModel:
    """Compile ``model`` for an OpenCL device, using the zeros in its weights.

    ``example`` is a tuple of inputs, batch first: it fixes every shape but the batch. ``device`` is a `Device`, part of
    a device's or platform's name, or None for the first GPU (where there is none, any device). The rest is as in
    `flexgroup.compile`: ``sparse=False`` ignores zeros; the result is run on the example and compared with torch, and a
    difference beyond ``tolerance`` times the largest output is an error; by default 1e-4, and more where rounding alone
    explains it.

    Raises `FlexgroupError` if pyopencl or a device is missing, for a model that cannot be exported, operators that are
    not supported (all of them at once) and results that disagree.
    """
    import torch

    from flexgroup.graph import from_torch, optimize

    if not isinstance(device, Device):
        device = find_device(device)
    if isinstance(example, torch.Tensor):
        example = (example,)
    graph = optimize(from_torch(model, example))
    compiled = GpuModel(plan_graph(graph, OPENCL, threads=1, sparse=sparse), device)
    compiled.error = difference(model, compiled, example)
    if not agrees(compiled.error, tolerance, model, example):
        compiled.close()
        raise FlexgroupError(
            f"the network on {device.name} differs from torch by {compiled.error:.2e} of the largest output on the "
            f"example, more than tolerance={tolerance_of() if tolerance is None else tolerance:g}; please report this "
            "with the model and the device"
        )
    return compiled
