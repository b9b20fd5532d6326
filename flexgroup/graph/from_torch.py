"""The front door: a torch module in, a typed `Graph` out, by way of ``torch.export``."""

from __future__ import annotations

import contextlib
import io
import logging
import operator
import os
import traceback
import warnings
from collections.abc import Iterator
from typing import Any

import torch

from flexgroup._errors import FlexgroupError
from flexgroup.graph import ir
from flexgroup.graph._lowering import Lowering
from flexgroup.graph._rules import RULES, SHAPE_ONLY
from flexgroup.graph._validate import check

_TORCH_FOLDER = os.path.dirname(torch.__file__)


def from_torch(model: torch.nn.Module, example: tuple[torch.Tensor, ...]) -> ir.Graph:
    """The graph that ``model`` runs in eval mode on inputs of the shapes of ``example``, for any batch size.

    Every tensor of ``example`` is float32 with the batch first: (batch, channels, height, width) for images,
    (batch, tokens, features) for sequences, (batch, features) for vectors. Weights are copied, so training may go on;
    weights that are computed from parameters and buffers alone (parametrizations, pruning masks, weight norm) become
    their present values. ``model`` stays as it is: its parameters, its training flags, its device.

    Raises `FlexgroupError` for a model or example of another type than float32, a model that torch.export
    cannot export (with torch's reason), operators that the graph has no word for (all of them at once, one
    line each), and weights that are NaN or infinite.
    """
    model = getattr(model, "_orig_mod", model)  # what torch.compile wraps: its names are the user's
    _check_weights(model)
    _check_example(example)
    program = _export(model, example)
    with torch.no_grad():
        try:
            graph = Lowering(program, model).run()
        except FlexgroupError:
            if not _is_plain(program):
                raise
            graph = Lowering(_export(model, example, simplified=True), model).run()
    check(graph)
    return graph


def _check_example(example: Any) -> None:
    if not (isinstance(example, tuple) and example and all(isinstance(x, torch.Tensor) for x in example)):
        raise FlexgroupError("example is not a tuple of tensors; pass the model's positional inputs, for example (x,)")
    for index, x in enumerate(example):
        shape = tuple(x.shape)
        if x.dtype != torch.float32:
            raise FlexgroupError(
                f"example[{index}] of shape {shape} is {_name(x.dtype)}, and flexgroup compiles float32; "
                f"convert it with example.float()"
            )
        if x.ndim not in (2, 3, 4) or 0 in shape:
            raise FlexgroupError(
                f"example[{index}] is of shape {shape}; flexgroup takes images (batch, channels, height, width), "
                f"sequences (batch, tokens, features) or vectors (batch, features), so add the batch with x[None] or "
                f"reshape it"
            )
    batches = {len(x) for x in example}
    if len(batches) > 1:
        raise FlexgroupError(
            f"the example's tensors have batches of {' and '.join(map(str, sorted(batches)))}; "
            f"use the same batch for all of them"
        )


def _check_weights(model: torch.nn.Module) -> None:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if torch.nn.parameter.is_lazy(tensor):
            raise FlexgroupError(f"weight {name!r} has no shape yet; run the model once on an example before")
        if tensor.is_meta:
            raise FlexgroupError(f"weight {name!r} has no values (it is on the meta device); load the weights before")
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise FlexgroupError(
                f"weight {name!r} is {_name(tensor.dtype)}, and flexgroup compiles float32; convert with model.float()"
            )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _export(
    model: torch.nn.Module, example: tuple[torch.Tensor, ...], simplified: bool = False
) -> torch.export.ExportedProgram:
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), example[0].device)
    moved = tuple(x.detach().to(device) for x in example)
    if len(moved[0]) == 1:
        # An axis of size one could be the batch or not: two images tell where a forward puts it.
        with contextlib.suppress(Exception):  # a forward for a single image only
            return _exported(model, tuple(torch.cat([x, x]) for x in moved), simplified)
    try:
        return _exported(model, moved, simplified)
    except Exception as error:  # whatever the user's forward or torch may raise, the user gets one line of it
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise FlexgroupError(
            f"torch.export cannot export {type(model).__name__}: {reason.rstrip('.')}{_user_line(error)}; check "
            f"that model(*example) runs and that forward() does not branch on the values of tensors"
        ) from error


def _exported(
    model: torch.nn.Module, example: tuple[torch.Tensor, ...], simplified: bool
) -> torch.export.ExportedProgram:
    with _eval_mode(model), torch.no_grad(), _quiet():
        program: torch.export.ExportedProgram = torch.export.export(model, example, strict=False)
        # With an empty table this replaces in-place operators by those that return values, and some by simpler ones.
        # It traces the program again, which takes as long as the export, so it is left out where it has nothing to do.
        return program if _is_plain(program) and not simplified else program.run_decompositions({})


def _is_plain(program: torch.export.ExportedProgram) -> bool:
    """Whether every operator returns its result and has a rule."""
    calls = [node for node in program.graph.nodes if node.op == "call_function"]
    return all(
        isinstance(target, torch._ops.OpOverload)
        and not target._schema.is_mutable
        and (str(target).rpartition(".")[0] in RULES or str(target).rpartition(".")[0] in SHAPE_ONLY)
        for target in (node.target for node in calls if node.target is not operator.getitem)
    )


def _user_line(error: BaseException) -> str:
    """Where in the user's own code it happened: the innermost frame outside of torch and of this file."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if os.path.isfile(frame.filename) and not frame.filename.startswith((_TORCH_FOLDER, __file__))
    ]
    return f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno}, in {frames[-1].name})" if frames else ""


@contextlib.contextmanager
def _eval_mode(model: torch.nn.Module) -> Iterator[None]:
    """Set every module's flag by itself: flags may be mixed, and ``model.eval()`` overridden to do more."""
    flags = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in flags:
            module.training = False
        yield
    finally:
        for module, training in flags:
            module.training = training


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch.export's own chatter (graphs on stderr, deprecations) out of a command's output."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # what goes wrong is raised, and reported by us
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
