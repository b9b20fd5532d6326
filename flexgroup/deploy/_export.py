"""`export`: from a torch module to an object file and a C header, checked against torch on the way."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from flexgroup._errors import FlexgroupError
from flexgroup.deploy._folder import check_folder, write_files
from flexgroup.deploy._header import header
from flexgroup.deploy._object import compile_object
from flexgroup.engine import CompiledModel, Plan, plan_graph
from flexgroup.engine._agreement import agrees, difference, tolerance_of
from flexgroup.engine._precision import advice, element_for
from flexgroup.kernels import F32, host_target, target_named

if TYPE_CHECKING:
    import torch

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}", re.ASCII)


@dataclass(frozen=True)
class ExportedFiles:
    """What `export` wrote, and the figures that its header states."""

    object: Path
    header: Path
    name: str
    target: str
    input_shapes: tuple[tuple[int, ...], ...]  # of one image
    output_shapes: tuple[tuple[int, ...], ...]
    workspace_bytes: int
    constant_bytes: int
    macs: int  # multiply-accumulates that are executed for one image
    dense_macs: int
    error: float  # largest difference to torch on the example, relative to the largest output
    precision: str = "fp32"  # how activations and weights are stored


def export(
    model: torch.nn.Module | str | os.PathLike[str] | bytes,
    example: tuple[torch.Tensor, ...] | None,
    out: str | os.PathLike[str],
    *,
    target: str = "host",
    name: str = "network",
    precision: str = "fp32",
    accumulate: str | None = None,
    force: bool = False,
) -> ExportedFiles:
    """Compile ``model`` ahead of time into ``out/NAME.o`` and ``out/NAME.h``, using the zeros in its weights.

    ``model`` is a torch module or an ONNX file, as for `flexgroup.compile`; ``example`` is a tuple of float32 inputs,
    batch first, or None for an ONNX file that declares its sizes: it fixes every shape but the batch; a call runs one
    image.
    ``target`` is "host" or a name such as "aarch64-android". The object defines ``NAME_run`` and ``NAME_prepare``,
    which the header describes; it needs no library, allocates nothing and has no state. It runs on the caller's thread.
    ``precision`` and ``accumulate`` are as for `flexgroup.compile`; the arrays of inputs and outputs are float32.

    Before anything is written, the very plan that is exported runs on this machine, in code for its own processor,
    and is compared with torch on the example.

    ``out`` must be new or empty, unless ``force`` is set: then the two files are replaced, and others stay.
    Raises `FlexgroupError` for an unknown target, a precision that it does not have, a name that C does not allow, a
    folder that exists, and whatever `flexgroup.compile` refuses; then nothing is written.
    """
    from flexgroup.graph import optimize, read_network

    if not _NAME.fullmatch(name):
        raise FlexgroupError(
            f"name {name!r} cannot begin C identifiers; use up to 64 letters, digits and underscores, a letter first"
        )
    chosen = host_target() if target == "host" else target_named(target)
    element = element_for(chosen, precision, accumulate)
    folder = check_folder(Path(out), force)
    graph, module, inputs = read_network(model, example)
    plan = plan_graph(optimize(graph), chosen, element=element)
    error = _check(plan, module, inputs)
    code, text = compile_object(plan, name), header(plan, name)
    write_files(folder, {f"{name}.o": code, f"{name}.h": text.encode()}, force)
    return ExportedFiles(
        object=folder / f"{name}.o",
        header=folder / f"{name}.h",
        name=name,
        target=chosen.name,
        input_shapes=tuple(port.shape for port in plan.inputs),
        output_shapes=tuple(port.shape for port in plan.outputs),
        workspace_bytes=plan.arena_bytes,
        constant_bytes=plan.constants.nbytes,
        macs=sum(step.macs for step in plan.steps),
        dense_macs=sum(step.dense_macs for step in plan.steps),
        error=error,
        precision=precision,
    )


def _check(plan: Plan, model: torch.nn.Module, example: tuple[torch.Tensor, ...]) -> float:
    """The difference to torch when this machine runs the same steps on the same constants; raises if it is too large.

    A plan depends on the length of vectors and the number of registers only, and LLVM splits vectors that are longer
    than the machine's, so a stand-in with the target's numbers and this machine's instructions runs any plan. Where
    this machine has no fp16 arithmetic, its results are rounded to fp16 one by one.
    """
    wanted, here = plan.target, host_target()
    if plan.element != F32 and not here.half:
        raise FlexgroupError(
            f"this machine has no instructions for fp16 numbers, so that the network for {wanted.name} cannot be "
            "checked here; export it on one that has, or use precision='fp32'"
        )
    stand_in = replace(here, vector_bytes=wanted.vector_bytes, vector_registers=wanted.vector_registers)
    compiled = CompiledModel(replace(plan, target=stand_in), 0.0)
    try:
        error = difference(model, compiled, example)
    finally:
        compiled.close()
    if not agrees(error, None, model, example, plan.element):
        raise FlexgroupError(
            f"the network compiled for {wanted.name} differs from torch by {error:.2e} of the largest output on the "
            f"example, more than {tolerance_of(plan.element):g}; nothing was written; {advice(plan.element)}"
        )
    return error
