"""Networks by name: the zoo's own, or any function of the user's written ``package.module:function``."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from torch import nn

from flexgroup._errors import FlexgroupError
from flexgroup.zoo import _cifar_resnet as cifar
from flexgroup.zoo import _mobilenet_v1 as mobilenet_v1
from flexgroup.zoo import _mobilenet_v3 as mobilenet_v3
from flexgroup.zoo import _resnet as resnet
from flexgroup.zoo import _unet as unet
from flexgroup.zoo import _vgg as vgg
from flexgroup.zoo._digits_net import digits_net
from flexgroup.zoo._efficientnet_lite import efficientnet_lite0
from flexgroup.zoo._encoder import encoder
from flexgroup.zoo._mobilenet_v2 import mobilenet_v2
from flexgroup.zoo._normalisation import IMAGENET, LITE, SYMMETRIC, Normalisation
from flexgroup.zoo._squeezenet import squeezenet1_1
from flexgroup.zoo._vit import vit_tiny


class Entry(NamedTuple):
    """A function that makes the network, and the input it was made for.

    ``input_shape`` is (channels, height, width), or (tokens, features). ``normalisation`` is what the public weights
    for ImageNet expect; None for a network that takes other data, which come normalised.
    """

    builder: Callable[[], nn.Module]
    input_shape: tuple[int, ...]
    normalisation: Normalisation | None = None


SMALL, LARGE = (3, 32, 32), (3, 224, 224)

MODELS: Mapping[str, Entry] = MappingProxyType(
    {
        "digits_net": Entry(digits_net, (1, 8, 8)),
        "resnet20": Entry(cifar.resnet20, SMALL),
        "resnet32": Entry(cifar.resnet32, SMALL),
        "resnet44": Entry(cifar.resnet44, SMALL),
        "resnet56": Entry(cifar.resnet56, SMALL),
        "resnet110": Entry(cifar.resnet110, SMALL),
        "resnet18": Entry(resnet.resnet18, LARGE, IMAGENET),
        "resnet34": Entry(resnet.resnet34, LARGE, IMAGENET),
        "resnet50": Entry(resnet.resnet50, LARGE, IMAGENET),
        "mobilenet_v1": Entry(mobilenet_v1.mobilenet_v1, LARGE, SYMMETRIC),
        "mobilenet_v1_075": Entry(mobilenet_v1.mobilenet_v1_075, LARGE, SYMMETRIC),
        "mobilenet_v1_050": Entry(mobilenet_v1.mobilenet_v1_050, LARGE, SYMMETRIC),
        "mobilenet_v1_025": Entry(mobilenet_v1.mobilenet_v1_025, LARGE, SYMMETRIC),
        "mobilenet_v2": Entry(mobilenet_v2, LARGE, IMAGENET),
        "mobilenet_v3_small": Entry(mobilenet_v3.mobilenet_v3_small, LARGE, IMAGENET),
        "mobilenet_v3_large": Entry(mobilenet_v3.mobilenet_v3_large, LARGE, IMAGENET),
        "efficientnet_lite0": Entry(efficientnet_lite0, LARGE, LITE),
        "vgg16": Entry(vgg.vgg16, LARGE, IMAGENET),
        "vgg16_bn": Entry(vgg.vgg16_bn, LARGE, IMAGENET),
        "squeezenet1_1": Entry(squeezenet1_1, LARGE, IMAGENET),
        "unet": Entry(unet.unet, (3, 256, 256)),
        "unet_nearest": Entry(unet.unet_nearest, (3, 256, 256)),
        "vit_tiny": Entry(vit_tiny, LARGE, SYMMETRIC),
        "encoder": Entry(encoder, (128, 384)),
    }
)


def build(name: str) -> nn.Module:
    """The network called ``name``, with fresh random weights.

    ``name`` is a key of `MODELS` or ``package.module:function``, a function that needs no arguments and
    returns a ``torch.nn.Module``; modules in the current folder are found too. Raises `FlexgroupError` where
    there is no such network; an exception inside the user's own code passes through unchanged.
    """
    if ":" in name:
        return _build_external(name)
    if name not in MODELS:
        raise FlexgroupError(
            f"model {name!r} is unknown{_nearest(name, MODELS)}; choose {', '.join(MODELS)}, "
            "or write package.module:function"
        )
    return MODELS[name].builder()


def input_shape(name: str) -> tuple[int, ...]:
    """(channels, height, width) of the images, or (tokens, features), that the zoo's network ``name`` takes.

    Raises `FlexgroupError` for a network of the user's, whose input only the user knows.
    """
    if name not in MODELS:
        raise FlexgroupError(
            f"the input shape of model {name!r} is not known; give it, for example --input 1,3,224,224"
        )
    return MODELS[name].input_shape


def normalisation(name: str) -> Normalisation | None:
    """How the public weights of network ``name`` want ImageNet's pixels; None where that is not known."""
    return MODELS[name].normalisation if name in MODELS else None


def _build_external(name: str) -> nn.Module:
    module_name, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), attribute)):
        raise FlexgroupError(f"model {name!r} is not package.module:function; write for example mynets.small:make_net")
    with _current_folder_importable():
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            raise FlexgroupError(
                f"model {name!r}: cannot import {module_name}: no module named {error.name!r}; install it, "
                "or run from the folder that holds it"
            ) from error
        function = getattr(module, attribute, None)
        if function is None:
            raise FlexgroupError(
                f"model {name!r}: module {module_name} has no {attribute!r}{_nearest(attribute, vars(module))}"
            )
        if isinstance(function, nn.Module) or not callable(function):
            raise FlexgroupError(
                f"model {name!r} is a {type(function).__name__}, not a function; "
                "name a function that needs no arguments and returns the network"
            )
        _check_needs_no_arguments(name, function)
        model = function()
    if not isinstance(model, nn.Module):
        raise FlexgroupError(
            f"model {name!r}: the function returned a {type(model).__name__}, not a torch.nn.Module; "
            "return the network itself"
        )
    return model


def _check_needs_no_arguments(name: str, function: Callable[..., object]) -> None:
    try:
        signature = inspect.signature(function)
    except ValueError:  # some built-ins do not tell
        return
    try:
        signature.bind()
    except TypeError as error:
        raise FlexgroupError(
            f"model {name!r}: the function cannot be called without arguments ({error}); give them defaults"
        ) from error


@contextlib.contextmanager
def _current_folder_importable() -> Iterator[None]:
    """Put the current folder last on ``sys.path``, where it shadows nothing; a console script lacks it."""
    folder = os.getcwd()
    sys.path.append(folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            # the last occurrence is ours: remove() would take the first
            del sys.path[len(sys.path) - 1 - sys.path[::-1].index(folder)]


def _nearest(name: str, known: Mapping[str, object]) -> str:
    matches = difflib.get_close_matches(name, [key for key in known if not key.startswith("_")], n=1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""
