"""The C header of an exported network: everything that its caller has to know."""

from __future__ import annotations

from collections.abc import Sequence

from flexgroup import __version__
from flexgroup.engine._plan import ALIGNMENT, Plan, Port
from flexgroup.engine._precision import in_words

_AXES = {1: "features", 3: "channels, height, width"}


def header(plan: Plan, name: str) -> str:
    """The text of ``NAME.h`` for C99 and C++: shapes, sizes, declarations and a usage example."""
    upper = name.upper()
    sizes = [
        *_sizes(upper, "INPUT", plan.inputs),
        *_sizes(upper, "OUTPUT", plan.outputs),
        f"#define {upper}_WORKSPACE_BYTES {plan.arena_bytes}",
        f"#define {upper}_WORKSPACE_ALIGNMENT {ALIGNMENT}",
    ]
    inputs, outputs = _names("input", plan.inputs), _names("output", plan.outputs)
    parameters = [*(f"const float *{each}" for each in inputs), *(f"float *{each}" for each in outputs)]
    return "\n".join(
        [
            "/*",
            *(f" * {line}".rstrip() for line in _description(plan, name)),
            " */",
            f"#ifndef {upper}_H",
            f"#define {upper}_H",
            "",
            *sizes,
            "",
            "#ifdef __cplusplus",
            'extern "C" {',
            "#endif",
            "",
            f"/* Clears the workspace. Call it once for a workspace before its first {name}_run. */",
            f"void {name}_prepare(void *workspace);",
            "",
            "/* Runs one image. Inputs and outputs are dense float32 arrays that do not overlap. */",
            f"void {name}_run({', '.join([*parameters, 'void *workspace'])});",
            "",
            "#ifdef __cplusplus",
            "}",
            "#endif",
            "",
            f"#endif /* {upper}_H */",
            "",
        ]
    )


def _description(plan: Plan, name: str) -> list[str]:
    macs, dense = (sum(getattr(step, field) for step in plan.steps) for field in ("macs", "dense_macs"))
    target = plan.target
    processor = target.features.lstrip("+") if target.cpu == "generic" else target.cpu
    return [
        f"{name}: a network compiled by flexgroup {__version__}",
        "",
        *_port_lines("input", plan.inputs),
        *_port_lines("output", plan.outputs, plan.keys),
        "layout     NCHW float32: the last axis is adjacent in memory; one image a call",
        f"precision  {in_words(plan.element, target)}",
        f"target     {target.name} ({target.triple}), for processors with the instructions of {processor}",
        f"workspace  {plan.arena_bytes:,} bytes of the caller's, aligned to {ALIGNMENT}; used by nobody else meanwhile",
        f"constants  {plan.constants.nbytes:,} bytes, read-only, in {name}.o",
        "threads    one: the caller's. Several may run at the same time, each with a workspace of its own",
        f"work       {macs:,} multiply-accumulates an image; {dense:,} with no zero skipped",
        "needs      nothing: no allocation, no library, no state but the workspace",
        "",
        "Usage (C11; in C++ write alignas for _Alignas):",
        "",
        *(f"    {line}".rstrip() for line in usage(plan, name)),
    ]


def usage(plan: Plan, name: str) -> list[str]:
    """A C function that runs the network, as lines."""
    upper = name.upper()
    inputs, outputs = _names("input", plan.inputs), _names("output", plan.outputs)
    arrays = [*_arrays(upper, inputs), *_arrays(upper, outputs)]
    return [
        f'#include "{name}.h"',
        "",
        f"static _Alignas({upper}_WORKSPACE_ALIGNMENT) unsigned char workspace[{upper}_WORKSPACE_BYTES];",
        *(f"static float {array};" for array in arrays),
        "",
        f"void run_{name}(void) {{",
        f"    {name}_prepare(workspace);  // once",
        f"    {name}_run({', '.join([*inputs, *outputs, 'workspace'])});  // for every image",
        "}",
    ]


def _names(word: str, ports: Sequence[Port]) -> list[str]:
    return [word] if len(ports) == 1 else [f"{word}{i}" for i in range(len(ports))]


def _arrays(upper: str, names: Sequence[str]) -> list[str]:
    return [f"{name}[{upper}_{name.upper()}_ELEMENTS]" for name in names]


def _sizes(upper: str, word: str, ports: Sequence[Port]) -> list[str]:
    names = _names(word, ports)
    return [f"#define {upper}_{name}_ELEMENTS {port.elements}" for name, port in zip(names, ports, strict=True)]


def _port_lines(word: str, ports: Sequence[Port], keys: Sequence[str] = ()) -> list[str]:
    lines = []
    for name, port, key in zip(_names(word, ports), ports, keys or [""] * len(ports), strict=True):
        shape = "".join(f"[{size}]" for size in port.shape)
        axes = f" ({_AXES[len(port.shape)]})" if len(port.shape) in _AXES else ""
        called = f": {key!r} of the module's dict" if key else ""
        lines.append(f"{name:10} float{shape}{axes}{called}")
    return lines
