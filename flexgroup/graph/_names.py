"""Where an exported operator came from: the layer's name in the module, and the user's source line."""

from __future__ import annotations

import os
import re

import torch

_TORCH_FOLDER = os.path.dirname(torch.__file__)
_CONTAINERS = (torch.nn.Sequential, torch.nn.ModuleList, torch.nn.ModuleDict)


class LayerNames:
    """Names the layers of ``model`` the way ``model.named_modules()`` does."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model
        self._known = {id(module): name for name, module in model.named_modules()}

    def path(self, node: torch.fx.Node) -> str:
        """The path of the innermost module that ran ``node``; the empty string for the model itself."""
        stack = node.meta.get("nn_module_stack") or {}
        path = str(next(reversed(stack.values()))[0]) if stack else ""
        path = re.sub(r"^L\['self'\]\.?|@\d+", "", path)
        path = re.sub(r"_modules\['([^']*)'\]", r"\1", path)
        module = self._module(path)
        # A module that sits in two places is known by the first.
        return path if module is None else self._known.get(id(module), path)

    def is_torch_layer(self, path: str) -> bool:
        """Whether ``path`` is one of torch's own layers, whose one operator may as well bear its name."""
        module = self._module(path)
        if module is None or isinstance(module, _CONTAINERS):
            return False
        own = (cls for cls in type(module).__mro__ if cls is not torch.nn.Module)
        return any(cls.__module__.startswith("torch.nn.modules.") for cls in own)

    def _module(self, path: str) -> torch.nn.Module | None:
        try:
            return self._model.get_submodule(path)
        except AttributeError:
            return None


def source_line(node: torch.fx.Node) -> str:
    """``file.py:42, in forward`` of the user's innermost frame, or the empty string where there is none."""
    return line_in(node.meta.get("stack_trace") or "")


def line_in(stack_trace: str) -> str:
    """The same of a stack trace as text."""
    frames = re.findall(r'File "([^"\n]+)", line (\d+), in (\S+)', stack_trace)
    own = [frame for frame in frames if not frame[0].startswith((_TORCH_FOLDER, "<"))]
    if not own:
        return ""
    file, line, function = own[-1]
    return f"{os.path.basename(file)}:{line}, in {function}"
