"""The object file of a plan: its kernels, its constants, and two functions that any C program can call."""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from flexgroup.engine._objects import module_for, object_code
from flexgroup.engine._plan import ALIGNMENT, FIRST_EXTERNAL, Plan
from flexgroup.kernels import Signature
from flexgroup.kernels.emit import I8, I32, I64, POINTER, Code

_ZEROS = 16  # bytes that `NAME_prepare` clears at a time
_NO_FIELDS = Signature(())


def compile_object(plan: Plan, name: str) -> bytes:
    """A relocatable object for ``plan.target`` that defines ``NAME_run`` and ``NAME_prepare`` and needs no other.

    All else in it is local, so objects of several networks link into one program.
    """
    return object_code(network_module(plan, name), plan.target)


def network_module(plan: Plan, name: str) -> ir.Module:
    """The LLVM module of a single-threaded plan.

    ``void NAME_run(inputs..., outputs..., workspace)`` takes every pointer as ``float*`` but the last, and runs one
    image; ``void NAME_prepare(workspace)`` clears the workspace, whose borders of planes the kernels expect to be zero.
    """
    if plan.threads != 1:
        raise ValueError(f"a plan for {plan.threads} threads cannot be exported; plan it for one")
    module = module_for(plan.kernels(), plan.target, runner=False)
    for kernel in plan.kernels():
        module.get_global(kernel.name).linkage = "internal"
    _emit_run(module, plan, name)
    _emit_prepare(module, plan, name)
    return module


def _emit_run(module: ir.Module, plan: Plan, name: str) -> None:
    """One call after the other: the steps of a plan are known, so there is no loop over them."""
    ports = len(plan.inputs) + len(plan.outputs)
    numbers = ir.FloatType().as_pointer()
    code = Code(module, f"{name}_run", plan.target, _NO_FIELDS, [*[numbers] * ports, POINTER])
    b = code.builder
    *external, workspace = code.function.args
    regions = [_address(b, _constants(module, plan)), workspace, *(b.bitcast(port, POINTER) for port in external)]
    bases = b.alloca(POINTER, FIRST_EXTERNAL + ports)
    for i, region in enumerate(regions):
        b.store(region, b.gep(bases, [ir.Constant(I64, i)]))
    blocks: dict[tuple[int, ...], ir.GlobalVariable] = {}
    for step in plan.steps:
        (fields,) = step.parts
        if fields is None:
            continue
        if fields not in blocks:
            blocks[fields] = _arguments(module, len(blocks), fields)
        b.call(module.get_global(step.kernel.name), [bases, _address(b, blocks[fields])])
    b.ret_void()


def _emit_prepare(module: ir.Module, plan: Plan, name: str) -> None:
    code = Code(module, f"{name}_prepare", plan.target, _NO_FIELDS, [POINTER])
    b = code.builder
    kind = ir.VectorType(I8, _ZEROS)
    with code.loop(0, plan.clear_bytes, _ZEROS) as chunks:
        chunk = b.bitcast(b.gep(code.function.args[0], [chunks.index]), kind.as_pointer())
        b.store(ir.Constant(kind, [0] * _ZEROS), chunk, align=_ZEROS)
    b.ret_void()


def _constants(module: ir.Module, plan: Plan) -> ir.GlobalVariable:
    kind = ir.ArrayType(I8, len(plan.constants))
    return _read_only(module, "constants", ir.Constant(kind, bytearray(plan.constants.tobytes())), ALIGNMENT)


def _arguments(module: ir.Module, index: int, fields: Sequence[int]) -> ir.GlobalVariable:
    kind = ir.ArrayType(I64, len(fields))
    return _read_only(module, f"arguments_{index}", ir.Constant(kind, list(fields)), I64.width // 8)


def _read_only(module: ir.Module, name: str, value: ir.Constant, align: int) -> ir.GlobalVariable:
    variable = ir.GlobalVariable(module, value.type, name)
    variable.linkage = "internal"
    variable.global_constant = True
    variable.initializer = value
    variable.align = align
    return variable


def _address(builder: ir.IRBuilder, variable: ir.GlobalVariable) -> ir.Value:
    """The address of a global array's first element."""
    zero = ir.Constant(I32, 0)
    return builder.gep(variable, [zero, zero])
