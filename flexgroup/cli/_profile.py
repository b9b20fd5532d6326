"""``flexgroup profile``: where a compiled network's time goes, layer by layer, beside what the machine can do."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flexgroup._errors import FlexgroupError
from flexgroup.cli._network import open_network
from flexgroup.cli._options import (
    AccumulateOption,
    FileArgument,
    InputOption,
    JsonOption,
    ModelOption,
    PrecisionOption,
    WeightsOption,
    check_at_least,
    chosen_model,
    parse_shape,
)
from flexgroup.cli._output import Progress, print_json, working, writing

if TYPE_CHECKING:
    from flexgroup.engine import Explanation, Profile


def profile(
    file: FileArgument = "",
    model: ModelOption = "",
    weights: WeightsOption = None,
    threads: Annotated[int, typer.Option("--threads", help="Cores that share each layer.")] = 1,
    dense: Annotated[bool, typer.Option("--dense", help="Skip no zeros: the baseline.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Say too why every layer runs as it does.")] = False,
    trace: Annotated[
        Path | None, typer.Option("--trace", help="Write one run as a timeline for Perfetto (JSON).", metavar="FILE")
    ] = None,
    roofline: Annotated[
        Path | None,
        typer.Option("--roofline", help="Draw all layers under the machine's limits (.svg or .png).", metavar="FILE"),
    ] = None,
    precision: PrecisionOption = "fp32",
    accumulate: AccumulateOption = "",
    input_shape: InputOption = "",
    runs: Annotated[int, typer.Option("--runs", help="Runs of which the medians are shown.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """Time every layer of the compiled network, beside the machine's peak and its bandwidth.

    \b
    Example:
      flexgroup profile --model resnet20 --weights RUN/model.safetensors
          --trace trace.json
    """
    with working(Progress(shown=True)):
        model = chosen_model(file, model)
        result, choices = run_profile(
            model,
            weights,
            threads=threads,
            dense=dense,
            shape=parse_shape(input_shape),
            precision=precision,
            accumulate=accumulate or None,
            runs=runs,
            trace=trace,
            roofline=roofline,
        )
    if as_json:
        print_json(document(model, result, choices, explain=explain))
        return
    print(result)
    if precision != "fp32" and not explain:
        print(f"Precision: {choices.numbers}")
    if explain:
        print(f"\n{choices}")


def run_profile(
    model: str,
    weights: Path | None,
    *,
    threads: int = 1,
    dense: bool = False,
    shape: tuple[int, ...] | None = None,
    precision: str = "fp32",
    accumulate: str | None = None,
    runs: int = 50,
    trace: Path | None = None,
    roofline: Path | None = None,
) -> tuple[Profile, Explanation]:
    """Compile network ``model``, and time it on random input of ``shape`` (by default what it was made for).

    Raises `FlexgroupError` for wrong input, and where ``trace`` or ``roofline`` cannot be written.
    """
    check_at_least(runs, 1, "--runs")
    check_at_least(threads, 1, "--threads")
    if trace is not None and not trace.absolute().parent.is_dir():
        raise FlexgroupError(f"--trace {trace}: there is no folder {trace.absolute().parent}; make it before")
    if trace is not None and trace.is_dir():
        raise FlexgroupError(f"--trace {trace} is a folder; name a file")

    import torch

    import flexgroup
    from flexgroup.report import check_picture, write_roofline, write_trace

    if roofline is not None:
        check_picture(roofline, "--roofline")
    network, shape = open_network(model, weights, shape)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    compiled = flexgroup.compile(
        network, (x,), threads=threads, sparse=not dense, precision=precision, accumulate=accumulate
    )
    try:
        result = compiled.profile(x, rounds=runs)
    finally:
        compiled.close()
    if trace is not None:
        with writing("--trace", trace):
            write_trace(result, trace)
    if roofline is not None:
        with writing("--roofline", roofline):
            write_roofline(result, roofline, f"{model}, {threads} thread{'s' if threads > 1 else ''}")
    return result, compiled.explain()


def document(model: str, result: Profile, choices: Explanation, *, explain: bool) -> dict[str, Any]:
    """What ``--json`` prints; the single calls are in the trace."""
    from flexgroup.report import this_machine

    rows = [asdict(row) | {"node_type": row.node_type} for row in result.rows]
    facts: dict[str, Any] = {"model": model, "threads": result.threads, "ms": result.ms, "rounds": result.rounds}
    facts |= {"least_ms": result.least_ms, "rows": rows, "types": [asdict(row) for row in result.types]}
    facts["memory"] = None if result.memory is None else asdict(result.memory)
    facts["machine"] = asdict(this_machine())
    facts["rates"] = None if result.machine is None else asdict(result.machine)
    facts |= {"precision": choices.precision, "error": choices.error}
    return facts | {"explanation": asdict(choices)} if explain else facts
