"""What a torch module computes, as one digest: its weights, its settings, and the code that its ``forward`` may reach.

Code counts by its bytecode, constants and line numbers, and by everything it refers to: defaults, closures, global
values, the functions and classes that it names, and what these refer to. So an edited helper function, another value
of a global constant or a replaced method make another digest. Torch, numpy and the purely computing modules of the
standard library count by their names and versions. Where anything is reached of which this cannot be told (hooks,
files, the environment, random numbers, objects of foreign types), there is no digest.
"""

from __future__ import annotations

import builtins
import dis
import enum
import functools
import hashlib
import os
import sys
import sysconfig
import types
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

_LIBRARIES = frozenset({"torch", "numpy"})
_COMPUTING = frozenset(  # of the standard library
    {"abc", "builtins", "collections", "contextlib", "copy", "dataclasses", "enum", "functools", "itertools", "math"}
    | {"numbers", "operator", "string", "types", "typing", "typing_extensions", "warnings"}
    | {"_abc", "_collections", "_collections_abc", "_functools", "_operator"}
)
_DOING = frozenset(  # built-in functions that do more than compute
    {"open", "input", "eval", "exec", "compile", "globals", "locals", "vars", "__import__", "breakpoint"}
)
_SCALARS = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), type(NotImplemented))
_TORCH_SCALARS = (torch.dtype, torch.device, torch.layout, torch.memory_format)
_TENSORS = (torch.Tensor, torch.nn.Parameter)
_DESCRIPTORS = (types.MethodDescriptorType, types.WrapperDescriptorType, types.GetSetDescriptorType)

_FORWARD_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
# Of a module's own attributes, what does not matter to an export in eval mode.
_BOOKKEEPING = frozenset(
    (*_FORWARD_HOOKS, "training", "_non_persistent_buffers_set", "_is_full_backward_hook", "_compiled_call_impl")
)
# Of a class's attributes, what describes and stores its objects.
_DESCRIPTION = frozenset(
    {"__dict__", "__weakref__", "__doc__", "__module__", "__annotations__", "__firstlineno__", "__static_attributes__"}
    | {"__annotate__", "__annotate_func__", "__annotations_cache__", "__abstractmethods__", "_abc_impl"}
    | {"__parameters__", "__orig_bases__", "__dataclass_fields__", "__dataclass_params__", "__match_args__"}
    | {"__repr__", "__str__", "extra_repr", "__getstate__", "__setstate__", "__reduce__", "__reduce_ex__", "__del__"}
)
_EMPTY_BASES = ("object", "ABC", "Generic", "Protocol")  # classes of the libraries whose objects hold nothing


class _UnknownError(Exception):
    """Something is reached of which it cannot be told what it computes."""


def fingerprint(model: torch.nn.Module, example: tuple[torch.Tensor, ...]) -> str | None:
    """A digest of all that exporting ``model`` on inputs like ``example`` depends on; None where it cannot be told."""
    model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    walk = _Walk()
    try:
        _check_surroundings()
        walk.note("versions", sys.version, torch.__version__, np.__version__, str(torch.get_default_dtype()))
        for tensor in example:
            walk.note("example", str(tensor.dtype), str(tuple(tensor.shape)))
        walk.value(model)
    except Exception:  # the user's objects may raise anything when they are looked at
        return None
    return walk.hash.hexdigest()


def _check_surroundings() -> None:
    """Raise `_UnknownError` where something outside of the model takes part in its calls."""
    hooks = [getattr(torch.nn.modules.module, f"_global{name}", None) for name in _FORWARD_HOOKS]
    modes = [getattr(torch._C, f"_len_torch_{kind}_stack", int)() for kind in ("function", "dispatch")]
    if any(hooks) or any(modes) or torch.is_autocast_enabled("cpu"):
        raise _UnknownError


class _Walk:
    """Feeds a digest with everything that can be reached from a value; what was met before is named by its number."""

    def __init__(self) -> None:
        self.hash = hashlib.sha256()
        self._met: dict[tuple[object, ...], int] = {}
        self._kept: list[object] = []  # an object that is gone would give its id to another

    def note(self, *words: str) -> None:
        """Add words, each with its length, so that none runs into the next."""
        for word in words:
            data = word.encode("utf-8", "surrogatepass")
            self.hash.update(len(data).to_bytes(8, "little") + data)

    def data(self, data: Any) -> None:
        view = memoryview(data).cast("B")
        self.hash.update(len(view).to_bytes(8, "little"))
        self.hash.update(view)

    def _again(self, value: object, *how: object) -> bool:
        """Whether ``value`` was met before (``how`` tells apart different views of it); if so, its number is noted."""
        place = (id(value), *how)
        if place in self._met:
            self.note("again", str(self._met[place]))
            return True
        self._met[place] = len(self._met)
        self._kept.append(value)
        return False

    def value(self, value: Any) -> None:
        """Add any value; raises `_UnknownError` for what it has no rule for."""
        kind = type(value)
        if kind in _SCALARS or isinstance(value, _TORCH_SCALARS):
            self.note(kind.__name__, repr(value))
        elif kind in (set, frozenset):
            self.note(kind.__name__, *sorted(repr(item) for item in value if self._is_scalar(item)))
        elif kind is types.CodeType:
            self._code(value)
        elif isinstance(value, tuple):
            self.note("tuple", str(len(value)))
            self._class(kind, made=False)
            for item in value:
                self.value(item)
        elif not self._again(value):
            self._object(value, kind)

    def _is_scalar(self, item: object) -> bool:
        if type(item) not in _SCALARS:
            raise _UnknownError
        return True

    def _object(self, value: Any, kind: type) -> None:
        if kind is list:
            self.note("list", str(len(value)))
            for item in value:
                self.value(item)
        elif kind in (dict, OrderedDict):
            self.note(kind.__name__, str(len(value)))
            for key, item in value.items():
                self.value(key)
                self.value(item)
        elif kind in _TENSORS:
            self._tensor(value)
        elif kind is np.ndarray or isinstance(value, np.generic):
            self._array(np.asarray(value))
        elif isinstance(value, torch.nn.Module):
            self._module(value)
        elif isinstance(value, type):
            self._class(value, made=True)
        elif kind is types.FunctionType:
            self._function(value)
        else:
            self._rare(value, kind)

    def _rare(self, value: Any, kind: type) -> None:
        if kind is types.MethodType:
            self.note("method")
            self.value(value.__func__)
            self.value(value.__self__)
        elif kind is types.BuiltinFunctionType:
            self._builtin(value)
        elif isinstance(value, (*_DESCRIPTORS, np.ufunc, torch._ops.OpOverload, torch._ops.OpOverloadPacket)):
            self.note(kind.__name__, str(value) if kind.__module__ == "torch._ops" else value.__name__)
            if isinstance(value, _DESCRIPTORS):
                self._class(value.__objclass__, made=False)
        elif kind is functools.partial:
            self.note("partial")
            for part in (value.func, value.args, value.keywords):
                self.value(part)
        elif kind is functools._lru_cache_wrapper:
            self.value(value.__wrapped__)
        elif isinstance(value, enum.Enum):
            self.note("member", value.name)
            self.value(value.value)
            self._class(kind, made=False)
        elif kind.__module__ == "typing":
            self.note("typing", repr(value))
        elif hasattr(value, "__dict__") and not any(map(_holds_something, kind.__mro__)):
            self.note("object")
            self._class(kind, made=False)
            self.value(value.__dict__)
        else:
            raise _UnknownError

    def _tensor(self, tensor: torch.Tensor) -> None:
        self.note("tensor", str(tensor.dtype), str(tuple(tensor.shape)))
        try:
            plain = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            self.data(plain.numpy())
        except (RuntimeError, TypeError, NotImplementedError) as error:  # sparse, quantised, on the meta device
            raise _UnknownError from error

    def _array(self, array: np.ndarray[Any, Any]) -> None:
        if array.dtype.hasobject:
            raise _UnknownError
        self.note("array", array.dtype.str, str(array.shape))
        self.data(np.ascontiguousarray(array).reshape(-1).view(np.uint8))

    def _module(self, module: torch.nn.Module) -> None:
        if any(getattr(module, name, None) for name in _FORWARD_HOOKS) or isinstance(module, torch.jit.ScriptModule):
            raise _UnknownError
        self.note("module")
        self._class(type(module), made=False)
        for name, value in sorted(module.__dict__.items()):
            if name not in _BOOKKEEPING and not name.endswith(("_hooks", "_hooks_with_kwargs", "_hooks_always_called")):
                self.note(name)
                self.value(value)

    def _class(self, cls: type, *, made: bool) -> None:
        """Add a class; ``made`` says that code may make objects of it, so that its ``__init__`` counts."""
        if self._again(cls, "class", made):
            return
        if not _is_library(type(cls).__module__):
            raise _UnknownError  # a metaclass may do anything
        for base in cls.__mro__:
            library = _is_library(base.__module__)
            self.note("class", base.__module__, base.__qualname__)
            if not library and base.__module__.partition(".")[0] in sys.stdlib_module_names:
                raise _UnknownError
            for name, value in sorted(vars(base).items()):
                if name in _DESCRIPTION or (name == "__init__" and not made):
                    continue
                # Of a library's class, only what somebody else has put there.
                if not library or (type(value) is types.FunctionType and not _is_of_library(value)):
                    self.note(name)
                    self._attribute(value)

    def _attribute(self, value: Any) -> None:
        if isinstance(value, staticmethod | classmethod):
            self.value(value.__func__)
        elif isinstance(value, property):
            self.value(value.fget)
        elif isinstance(value, functools.cached_property):
            self.value(value.func)
        else:
            self.value(value)

    def _builtin(self, function: Any) -> None:
        owner = function.__self__
        self.note("builtin", function.__qualname__)
        if isinstance(owner, types.ModuleType):
            self._library_module(owner.__name__)
            if owner is builtins and function.__name__ in _DOING:
                raise _UnknownError
        elif owner is not None:
            self.value(owner)

    def _function(self, function: types.FunctionType) -> None:
        self.note("function", str(function.__module__), function.__qualname__)
        for cell in function.__closure__ or ():
            try:
                content = cell.cell_contents
            except ValueError:  # not filled yet
                raise _UnknownError from None
            # The cell behind super(): the class that the function belongs to.
            if not (isinstance(content, type) and function.__qualname__.startswith(f"{content.__qualname__}.")):
                self.value(content)
        if _is_of_library(function):
            return
        self.value(function.__defaults__)
        self.value(function.__kwdefaults__)
        self.value({name: value for name, value in vars(function).items() if name != "__wrapped__"})
        self._code(function.__code__)
        codes = list(_nested(function.__code__))
        names = frozenset(name for code in codes for name in code.co_names)
        for name in sorted({name for code in codes for name in _globals_of(code)}):
            self.note(name)
            if name in function.__globals__:
                self._named(function.__globals__[name], names)
            elif hasattr(builtins, name):
                self.value(getattr(builtins, name))

    def _named(self, value: Any, names: frozenset[str]) -> None:
        """A global value; of a module that is none of the libraries, whatever is called by one of ``names``."""
        if not isinstance(value, types.ModuleType):
            self.value(value)
        elif _is_library(value.__name__):
            self.note("library", value.__name__)
        elif value.__name__.partition(".")[0] in sys.stdlib_module_names or names & {"getattr", "__dict__"}:
            raise _UnknownError  # of which it cannot be told what is taken from it
        elif not self._again(value, names):
            self.note("names of", value.__name__)
            for name in sorted(names & vars(value).keys()):
                self.note(name)
                self._named(vars(value)[name], names)

    def _library_module(self, name: str) -> None:
        if not _is_library(name):
            raise _UnknownError
        self.note("library", name)

    def _code(self, code: types.CodeType) -> None:
        self.note("code", os.path.basename(code.co_filename), str(code.co_firstlineno), str(code.co_flags))
        self.note(str((code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount)))
        self.note(str((code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)))
        self.data(code.co_code)
        self.data(code.co_linetable)
        self.data(getattr(code, "co_exceptiontable", b""))  # new in Python 3.11
        for constant in code.co_consts:
            self.value(constant)


def _nested(code: types.CodeType) -> Iterable[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _nested(constant)


def _globals_of(code: types.CodeType) -> Iterable[str]:
    """The global names that ``code`` reads; raises `_UnknownError` where it imports or changes some."""
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("IMPORT_NAME", "IMPORT_STAR", "STORE_GLOBAL", "DELETE_GLOBAL"):
            if instruction.opname != "IMPORT_NAME" or not _is_library(str(instruction.argval)):
                raise _UnknownError
        elif instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield str(instruction.argval)


def _holds_something(base: type) -> bool:
    """Whether objects of a library's class hold more than their ``__dict__`` shows."""
    return _is_library(base.__module__) and base.__name__ not in _EMPTY_BASES


def _is_of_library(function: types.FunctionType) -> bool:
    # `functools.wraps` gives a function the name of another's module: its globals tell where it is from.
    return _is_library(function.__module__) and _is_library(function.__globals__.get("__name__"))


@functools.lru_cache(maxsize=4096)
def _is_library(name: str | None) -> bool:
    """Whether the module called ``name`` is known by its name and version, and computes and nothing else."""
    root = str(name).partition(".")[0]
    if root in _LIBRARIES:
        return True
    if root not in _COMPUTING:
        return False
    file = getattr(sys.modules.get(root), "__file__", None)  # a user's file may have such a name too
    return file is None or root == "typing_extensions" or file.startswith(sysconfig.get_path("stdlib"))
