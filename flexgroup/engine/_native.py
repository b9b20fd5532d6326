"""Machine code for a plan: LLVM compiles the kernels and the runner, ctypes calls them."""

from __future__ import annotations

import ctypes
import threading
import weakref
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import numpy.typing as npt
from llvmlite import ir

from flexgroup._errors import FlexgroupError
from flexgroup.engine._plan import Plan
from flexgroup.engine._runner import JOB, MAX_REGIONS, emit_runner
from flexgroup.engine._workers import Workers, address, aligned, symbol
from flexgroup.kernels import KernelSpec, Target, runs_here

_IMAGES, _TICKS = JOB.fields.index("images"), JOB.fields.index("ticks")
_LOCK = threading.Lock()  # LLVM's initialisation and code generation are not thread-safe


def machine_for(target: Target, *, jit: bool) -> Any:
    """LLVM's target machine for ``target``; raises `FlexgroupError` if this LLVM build lacks it.

    With ``jit``, for code that runs here; then a target of another architecture is refused too.
    """
    if jit:
        if not runs_here(target):
            wanted, here = (triple.split("-")[0] for triple in (target.triple, llvm.get_process_triple()))
            raise FlexgroupError(
                f"target {target.name} is {wanted} code, which this {here} machine cannot run; use flexgroup.export"
            )
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
    return described.create_target_machine(
        cpu=target.cpu,
        features=target.features,
        opt=3,
        reloc="pic",
        codemodel="jitdefault" if jit else "default",
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
        module.data_layout = str(machine.target_data)
        parsed = llvm.parse_assembly(str(module))
        parsed.verify()
        return bytes(machine.emit_object(parsed))


class Program:
    """A plan in machine code, its constants and arena, and the worker threads that help to run it."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._engine, addresses = _compile(plan)
        self._run = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(addresses["run"])
        self._submit = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(addresses["submit"])
        self._work = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(addresses["work"])
        self._constants = aligned(plan.constants.nbytes)
        self._constants[:] = plan.constants
        self._arena = aligned(plan.arena_bytes)
        self._blocks, self._steps = self._step_table(addresses)
        regions = 2 + len(plan.inputs) + len(plan.outputs)
        if regions > MAX_REGIONS:
            raise FlexgroupError(
                f"{regions - 2} inputs and outputs are too many; at most {MAX_REGIONS - 2} are supported"
            )
        ports = [*plan.inputs, *plan.outputs]
        # Small ctypes arrays: writing their entries on every call is several times quicker than numpy's.
        self._bases = (ctypes.c_int64 * regions)(address(self._constants), address(self._arena))
        self._strides = (ctypes.c_int64 * regions)(0, 0, *(port.elements * plan.element.bytes for port in ports))
        self._barrier = np.zeros(16, dtype=np.int64)
        fields = {
            "bases": ctypes.addressof(self._bases),
            "base_count": regions,
            "strides": ctypes.addressof(self._strides),
            "images": 0,
            "steps": address(self._steps),
            "first": 0,
            "last": len(plan.steps),
            "threads": plan.threads,
            "barrier": address(self._barrier),
            "yield": symbol("sched_yield"),
            "clock": symbol("clock_gettime"),
            "ticks": 0,
        }
        self._job = (ctypes.c_int64 * len(JOB.fields))(*JOB.pack(fields))
        self._job_address = ctypes.addressof(self._job)
        self._busy = threading.Lock()
        self._workers = Workers(self._submit, self._work, plan.threads - 1) if plan.threads > 1 else None
        # Runs when the program is collected, or at exit while threads can still end.
        self.close = weakref.finalize(self, _close, self._busy, self._workers)

    def _step_table(self, addresses: dict[str, int]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The argument blocks, and for every step its kernel's address and the blocks' addresses."""
        steps = self.plan.steps
        longest = max((len(step.kernel.signature.fields) for step in steps), default=1)
        blocks = np.zeros((len(steps), self.plan.threads, longest), dtype=np.int64)
        table = np.zeros((len(steps), 1 + self.plan.threads), dtype=np.int64)
        for i, step in enumerate(steps):
            table[i, 0] = addresses[step.kernel.name]
            for thread, part in enumerate(step.parts):
                if part is not None:
                    blocks[i, thread, : len(part)] = part
                    table[i, 1 + thread] = blocks[i, thread].ctypes.data
        return blocks, table

    def run(self, pointers: list[int], images: int) -> None:
        """Run ``images`` images; ``pointers``: the addresses of all inputs, then all outputs (dense, batch first)."""
        if images == 0:
            return
        with self._busy:
            self._start(pointers, images)

    def time_steps(self, pointers: list[int], rounds: int) -> npt.NDArray[np.float64]:
        """Seconds of every step for one image, as a (rounds, steps) array."""
        ticks = np.zeros((len(self.plan.steps) + 1, 2), dtype=np.int64)
        seconds = np.zeros((rounds, len(self.plan.steps)))
        with self._busy:
            self._job[_TICKS] = address(ticks)
            try:
                for round_seconds in seconds:
                    self._start(pointers, 1)
                    round_seconds[:] = np.diff(ticks[:, 0]) + np.diff(ticks[:, 1]) * 1e-9
            finally:
                self._job[_TICKS] = 0
        return seconds

    def _start(self, pointers: list[int], images: int) -> None:
        if not self.close.alive:
            raise FlexgroupError("the compiled network was closed; compile it again to run it")
        for region, pointer in enumerate(pointers, start=2):
            self._bases[region] = pointer
        self._job[_IMAGES] = images
        if self._workers is None:
            self._run(self._job_address, 0)
        else:
            if self._workers.revive():
                self._barrier[:] = 0
            self._workers.run(self._job_address)


def _close(busy: threading.Lock, workers: Workers | None) -> None:
    """Stop the workers once no call is running; a program without workers has nothing to stop."""
    if workers is not None:
        with busy:
            workers.stop()


def _compile(plan: Plan) -> tuple[Any, dict[str, int]]:
    """Machine code for the plan's kernels and the runner: the engine that owns it, and addresses by name."""
    kernels = plan.kernels()
    with _LOCK:
        machine = machine_for(plan.target, jit=True)
        parsed = llvm.parse_assembly(str(module_for(kernels, plan.target, runner=True)))
        parsed.verify()
        engine = llvm.create_mcjit_compiler(parsed, machine)
        engine.finalize_object()
    names = [*(kernel.name for kernel in kernels), "run", "submit", "work"]
    return engine, {name: engine.get_function_address(name) for name in names}
