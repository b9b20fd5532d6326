"""Whether a compiled network computes what torch does: their difference on the example, and what of it is rounding."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flexgroup._errors import FlexgroupError
from flexgroup.engine._calls import in_order
from flexgroup.engine._precision import TOLERANCES, precision_of
from flexgroup.kernels import F32, Element

if TYPE_CHECKING:
    import torch

TRIALS = 4
ROUNDINGS = {2: 2.0, 4: 16.0}  # how often what one rounding changes is tolerated, by the bytes of a number
MOST = 0.1  # of the largest output, that rounding may be blamed for
BITS = {2: 11, 4: 24}  # of the significand


def difference(model: Any, compiled: Callable[..., Any], example: tuple[Any, ...]) -> float:
    """Largest absolute difference to ``model`` in torch on the example, over torch's largest absolute output.

    The compiled network runs on noise first: whatever one image leaves behind in its memory must not reach the next.

    Raises `FlexgroupError` for models that return anything but tensors.
    """
    import torch

    wanted = _results(model, example)
    generator = torch.Generator().manual_seed(0)  # of its own: the caller's random numbers stay as they were
    with torch.no_grad():
        compiled(*(torch.randn(value.shape, generator=generator) for value in example))
        return _largest_change(wanted, compiled(*example))


def agrees(error: float, tolerance: float | None, model: Any, example: tuple[Any, ...], element: Element = F32) -> bool:
    """Whether ``error``, a `difference`, is within ``tolerance``, by default that of `TOLERANCES`.

    By default, what rounding alone can make of this example is no error either, up to a tenth of the largest output.
    Where large numbers cancel, or an activation cuts off all but a small rest, the largest output is small beside the
    numbers that it was added from, and torch's own last bits are a large part of it (`allowance`).
    """
    if tolerance is not None:
        return error <= tolerance
    return error <= tolerance_of(element) or (error <= MOST and error <= allowance(model, example, element))


def allowance(model: Any, example: tuple[Any, ...], element: Element = F32) -> float:
    """The difference that rounding may make on this example, over torch's largest absolute output."""
    return min(ROUNDINGS[element.bytes] * rounding(model, example, element), MOST)


def tolerance_of(element: Element = F32) -> float:
    """What a difference may be by default, as a share of the largest output."""
    return TOLERANCES[precision_of(element)]


def rounding(model: Any, example: tuple[Any, ...], element: Element = F32) -> float:
    """How far torch's results move, over its largest absolute output, when inputs and weights change in their last bit.

    The largest of `TRIALS` random changes.
    """
    import torch

    from flexgroup.graph import GraphModule

    wanted = _results(model, example)
    generator = torch.Generator().manual_seed(1)
    last_bit = 2.0 ** (1 - BITS[element.bytes])

    def moved(value: torch.Tensor) -> torch.Tensor:
        if not value.is_floating_point():
            return value
        noise = torch.rand(value.shape, generator=generator).to(value) * 2 - 1
        return value.detach() * (1 + last_bit * noise)

    def results() -> list[torch.Tensor]:
        inputs = tuple(moved(value) for value in example)
        if isinstance(model, GraphModule):
            return _results(model.changed(lambda array: moved(torch.from_numpy(array)).numpy()), inputs)
        named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        return _results(model, inputs, {name: moved(value) for name, value in named.items()})

    largest = max(_largest_change(wanted, results()) for _ in range(TRIALS))
    _results(model, example)  # weights that hooks compute stay in the model: these are of its own parameters again
    return largest


def _results(model: Any, example: tuple[Any, ...], state: dict[str, Any] | None = None) -> list[torch.Tensor]:
    """What torch computes in evaluation mode, with ``state`` for parameters and buffers; the model stays as it was."""
    import torch

    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            given = model(*example) if state is None else torch.func.functional_call(model, state, example)
    finally:
        for module, flag in training.items():
            module.training = flag
    results = in_order(given)
    if not all(isinstance(result, torch.Tensor) for result in results):
        raise FlexgroupError(
            f"{type(model).__name__} returns a {type(given).__name__} with something else than tensors in it; wrap it "
            "in a module that returns a tensor, or a tuple or dict of tensors"
        )
    return results


def _largest_change(wanted: list[torch.Tensor], given: Any) -> float:
    """Largest absolute difference of any result, over the largest absolute number that was wanted of it."""
    worst = 0.0
    for want, have in zip(wanted, in_order(given), strict=True):
        scale = max(float(want.abs().max()), 1e-30)
        change = float((want - have.reshape(want.shape)).abs().max()) / scale
        worst = change if change != change else max(worst, change)
    return worst
