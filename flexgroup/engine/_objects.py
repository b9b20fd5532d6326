"""The machine code of kernels: each an object of its own, made once, kept on disk, loaded together.

The code of a kernel depends on its value, the target, LLVM and the sources that write its IR. These are the key, so
that finding it again takes no IR.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import llvmlite
import llvmlite.binding as llvm
from llvmlite import ir

import flexgroup
from flexgroup._errors import FlexgroupError
from flexgroup.engine._cache import Cache, content_key, source_digest, this_cache
from flexgroup.engine._runner import emit_runner
from flexgroup.kernels import KernelSpec, Target, runs_here

OPTIMISATION = 3
RUNNER_FUNCTIONS = ("run", "submit", "work")

_KIND = "code"
_IN_MEMORY = 2048  # objects; 2 KiB each
_LOCK = threading.Lock()  # LLVM's initialisation is not thread-safe, and neither is the table below
_RECENT: OrderedDict[str, bytes] = OrderedDict()


@dataclass(frozen=True)
class _Runner:
    """The run loop, which is compiled and kept like a kernel."""

    name: str = "runner"

    def emit(self, module: ir.Module, target: Target) -> None:
        emit_runner(module, target)


def machine_for(target: Target, *, jit: bool) -> Any:
    """LLVM's target machine for ``target``; raises `FlexgroupError` if this LLVM build lacks it.

    With ``jit``, for code that runs here; then a target of another architecture is refused too.
    """
    if jit:
        if not runs_here(target):
            wanted, here = (triple.split("-")[0] for triple in (target.triple, llvm.get_process_triple()))
            code = f"is {wanted} code, which this {here} machine cannot run"
            if wanted == here:
                code = "has instructions that this machine lacks"
            raise FlexgroupError(f"target {target.name} {code}; use flexgroup.export")
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
    else:
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
    try:
        described = llvm.Target.from_triple(target.triple)
    except RuntimeError as error:
        raise FlexgroupError(
            f"target {target.name}: this llvmlite cannot compile for {target.triple}: {error}"
        ) from None
    # LLVM's loader for code that runs here confuses the offset tables of position-independent objects with each other.
    reloc = "pic" if not jit else "static" if target.triple.startswith("x86_64") else "default"
    return described.create_target_machine(
        cpu=target.cpu,
        features=target.features,
        opt=OPTIMISATION,
        reloc=reloc,
        codemodel="small" if jit else "default",
        jit=jit,
    )


def module_for(kernels: tuple[KernelSpec, ...], target: Target, *, runner: bool) -> ir.Module:
    """One LLVM module with all ``kernels``, and the run loop if asked for."""
    module = ir.Module("flexgroup")
    module.triple = target.triple
    for kernel in kernels:
        kernel.emit(module, target)
    if runner:
        emit_runner(module, target)
    return module


def object_code(module: ir.Module, target: Target) -> bytes:
    """``module`` as one relocatable object file; raises `FlexgroupError` if this LLVM build lacks the target."""
    with _LOCK:
        machine = machine_for(target, jit=False)
        return _assemble(_text(module, machine), machine)


def assembly(kernels: Sequence[KernelSpec], target: Target) -> str:
    """The code of ``kernels`` in an object for ``target``, to be read."""
    with _LOCK:
        machine = machine_for(target, jit=False)
        module = module_for(tuple(kernels), target, runner=False)
        return str(machine.emit_assembly(llvm.parse_assembly(_text(module, machine))))


def load(kernels: Sequence[KernelSpec], target: Target) -> tuple[Any, dict[str, int]]:
    """The kernels and the run loop as code that can be called: the engine that owns it, and addresses by name.

    Raises `FlexgroupError` where ``target`` is not for this machine.
    """
    with _LOCK:
        machine = machine_for(target, jit=True)
        objects = _objects([_Runner(), *kernels], target, machine, this_cache())
        engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
        for data in objects:
            engine.add_object_file(llvm.object_file.ObjectFileRef.from_data(data))
        engine.finalize_object()
        names = [*RUNNER_FUNCTIONS, *(kernel.name for kernel in kernels)]
        return engine, {name: engine.get_function_address(name) for name in names}


def _objects(parts: Sequence[_Runner | KernelSpec], target: Target, machine: Any, cache: Cache) -> list[bytes]:
    """The object files of ``parts``: from memory, from ``cache``, or made now."""
    sources = source_digest("kernels", "engine/_runner.py", "engine/_objects.py")
    objects, made = [], False
    for part in parts:
        key = None if sources is None else object_key(part, target, sources)
        data = None if key is None else _RECENT.get(key) or cache.get(_KIND, key)
        if data is None:
            module = _module_of(part, target)
            data = _assemble(_text(module, machine), machine)
            if key is not None:
                cache.put(_KIND, key, data)
                made = True
        if key is not None:
            _remember(key, data)
        objects.append(data)
    if made:
        cache.trim()
    return objects


def object_key(part: _Runner | KernelSpec, target: Target, sources: str) -> str:
    """The key of a kernel's machine code; ``sources`` is the digest of the files that write it."""
    versions = f"{flexgroup.__version__} {llvmlite.__version__} {llvm.llvm_version_info}"
    return content_key([f"{type(part).__module__}.{part!r}", repr(target), versions, str(OPTIMISATION), sources])


def _remember(key: str, data: bytes) -> None:
    _RECENT[key] = data
    _RECENT.move_to_end(key)
    if len(_RECENT) > _IN_MEMORY:
        _RECENT.popitem(last=False)


def _module_of(part: _Runner | KernelSpec, target: Target) -> ir.Module:
    module = ir.Module(part.name)
    module.triple = target.triple
    part.emit(module, target)
    return module


def _text(module: ir.Module, machine: Any) -> str:
    module.data_layout = str(machine.target_data)
    return str(module)


def _assemble(text: str, machine: Any) -> bytes:
    """LLVM's part of the work."""
    parsed = llvm.parse_assembly(text)
    parsed.verify()
    return bytes(machine.emit_object(parsed))
