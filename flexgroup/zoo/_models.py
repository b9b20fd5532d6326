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
from flexgroup.zoo import _resnet as resnet
from flexgroup.zoo._digits_net import digits_net
from flexgroup.zoo._mobilenet_v2 import mobilenet_v2


class Entry(NamedTuple):
    """A function that makes the network, and the (channels, height, width) of the images it was made for."""

    builder: Callable[[], nn.Module]
    input_shape: tuple[int, int, int]


MODELS: Mapping[str, Entry] = MappingProxyType(
    {
        "digits_net": Entry(digits_net, (1, 8, 8)),
        "resnet20": Entry(cifar.resnet20, (3, 32, 32)),
        "resnet32": Entry(cifar.resnet32, (3, 32, 32)),
        "resnet44": Entry(cifar.resnet44, (3, 32, 32)),
        "resnet56": Entry(cifar.resnet56, (3, 32, 32)),
        "resnet110": Entry(cifar.resnet110, (3, 32, 32)),
        "resnet18": Entry(resnet.resnet18, (3, 224, 224)),
        "resnet34": Entry(resnet.resnet34, (3, 224, 224)),
        "resnet50": Entry(resnet.resnet50, (3, 224, 224)),
        "mobilenet_v1": Entry(mobilenet_v1.mobilenet_v1, (3, 224, 224)),
        "mobilenet_v1_075": Entry(mobilenet_v1.mobilenet_v1_075, (3, 224, 224)),
        "mobilenet_v1_050": Entry(mobilenet_v1.mobilenet_v1_050, (3, 224, 224)),
        "mobilenet_v1_025": Entry(mobilenet_v1.mobilenet_v1_025, (3, 224, 224)),
        "mobilenet_v2": Entry(mobilenet_v2, (3, 224, 224)),
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


def input_shape(name: str) -> tuple[int, int, int]:
    """(channels, height, width) of the images that the zoo's network ``name`` takes.

    Raises `FlexgroupError` for a network of the user's, whose input only the user knows.
    """
    if name not in MODELS:
        raise FlexgroupError(
            f"the input shape of model {name!r} is not known; give it, for example --input 1,3,224,224"
        )
    return MODELS[name].input_shape


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
