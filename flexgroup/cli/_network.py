"""From ``--model`` and ``--weights`` to a network that is known to fit the data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flexgroup._errors import FlexgroupError

if TYPE_CHECKING:
    from torch import nn

    from flexgroup.zoo import ImageData


def load_network(model: str, weights: Path | None) -> nn.Module:
    """The network in eval mode, all weights finite; without ``weights``, as the user's function made it.

    Raises `FlexgroupError` for an unknown network, unfit weights, and a network of the zoo without weights.
    """
    from flexgroup import zoo

    network = zoo.build(model).eval()
    if weights is not None:
        zoo.load_weights(network, weights)
    elif model in zoo.MODELS:
        raise FlexgroupError(f"model {model!r} needs trained weights; give --weights FILE")
    else:
        zoo.check_finite(network.state_dict(), f"model {model!r}")
    return network


def open_network(model: str, weights: Path | None, shape: tuple[int, ...] | None) -> tuple[nn.Module, tuple[int, ...]]:
    """The network and the shape of its input, batch included: ``shape``, or by default what it was made for.

    ``model`` is a name, as for `load_network`, or the path of an ONNX file, which holds its own weights.
    Raises `FlexgroupError` where there is no such network, or where it does not take such an input.
    """
    if Path(model).suffix.lower() == ".onnx":
        network, shape = _onnx_network(model, weights, shape)
    else:
        from flexgroup import zoo

        shape = shape or (1, *zoo.input_shape(model))
        network = load_network(model, weights)
    run_once(network, model, shape)
    return network, shape


def _onnx_network(model: str, weights: Path | None, shape: tuple[int, ...] | None) -> tuple[nn.Module, tuple[int, ...]]:
    from flexgroup.graph import GraphModule, from_onnx

    if weights is not None:
        raise FlexgroupError(f"{model} holds its own weights; leave out --weights {weights}")
    graph = from_onnx(model, None if shape is None else [shape])
    if len(graph.inputs) > 1:
        raise FlexgroupError(
            f"{model} has {len(graph.inputs)} inputs; commands take networks of one, flexgroup.compile takes any"
        )
    return GraphModule(graph), shape or (1, *graph.shapes[graph.inputs[0]])


def check_classifies(network: nn.Module, model: str, data: ImageData, spec: str) -> None:
    """Raise `FlexgroupError` unless the network gives one logit for each class of the data set's images."""
    import torch

    logits = run_once(network, model, (1, *data.image_shape))
    if not isinstance(logits, torch.Tensor):
        raise FlexgroupError(
            f"model {model!r} returns a {type(logits).__name__}, not one tensor; wrap it so that it does"
        )
    if tuple(logits.shape) != (1, len(data.classes)):
        raise FlexgroupError(
            f"model {model!r} gives {tuple(logits.shape)} for one image; "
            f"data {spec} has {len(data.classes)} classes: choose a network with as many outputs"
        )


def run_once(network: nn.Module, model: str, shape: Sequence[int]) -> Any:
    """What the network returns for zeros of ``shape``; raises `FlexgroupError` where the network does not take them."""
    import torch

    try:
        with torch.inference_mode():
            return network.eval()(torch.zeros(*shape))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise FlexgroupError(
            f"model {model!r} does not take an input of {'x'.join(map(str, shape))}: {first}; "
            "give --data or --input that fits it"
        ) from error
