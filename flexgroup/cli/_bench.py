"""``flexgroup bench``: how long a network takes, beside the engines one would otherwise use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

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
    parse_numbers,
    parse_shape,
)
from flexgroup.cli._output import Progress, print_json, stdout_console, working

if TYPE_CHECKING:
    from torch import Tensor, nn

    from flexgroup.engine import CompiledModel, Memory

AGAINST = ("onnxruntime", "torch")
OURS = "flexgroup"


@dataclass(frozen=True)
class Latency:
    """One engine on so many threads: milliseconds a call (median, 10th and 90th percentile of ``calls``).

    ``ratio`` is this median divided by that of the compiled network on as many threads: how many times faster
    flexgroup is. ``max_difference`` is the largest difference of an output to PyTorch's.
    """

    engine: str
    threads: int
    median_ms: float
    p10_ms: float
    p90_ms: float
    calls: int
    ratio: float
    max_difference: float


@dataclass(frozen=True)
class Benchmark:
    """All engines side by side on one network; ``sparsity`` is the share of zeros in kernels and matrices.

    ``memory`` has the bytes of activations and of constants that the compiled network holds, by number of threads.
    """

    model: str
    weights: str | None
    input: tuple[int, ...]
    sparsity: float
    machine: dict[str, Any]
    latencies: tuple[Latency, ...]
    memory: dict[int, Memory]
    rest_ms: float = 0.0  # before every call
    precision: str = "fp32"  # of the compiled network
    error: float = 0.0  # its largest difference to PyTorch, in fp32, relative to the largest output


def bench(
    file: FileArgument = "",
    model: ModelOption = "",
    weights: WeightsOption = None,
    threads: Annotated[str, typer.Option("--threads", help="Numbers of threads, such as 1,2.")] = "1",
    against: Annotated[
        str, typer.Option("--against", help="Compare with onnxruntime too; torch is always there.")
    ] = "",
    precision: PrecisionOption = "fp32",
    accumulate: AccumulateOption = "",
    input_shape: InputOption = "",
    runs: Annotated[int, typer.Option("--runs", help="Rounds; every engine has a turn in each.")] = 20,
    rest_ms: Annotated[
        float, typer.Option("--rest-ms", help="Rest before every call, as an app that waits for pictures: 33.")
    ] = 0.0,
    as_json: JsonOption = False,
) -> None:
    """Time the compiled network, and others side by side: dense, PyTorch, ONNX Runtime.

    \b
    Example:
      flexgroup bench --model resnet20 --weights RUN/model.safetensors
          --threads 1,2 --against onnxruntime
      flexgroup bench model.onnx --against onnxruntime
    """
    progress = Progress(shown=True)
    with working(progress):
        result = run_benchmark(
            chosen_model(file, model),
            weights,
            threads=parse_numbers(threads, "--threads", "1,2"),
            against=tuple(name.strip() for name in against.split(",")) if against else (),
            shape=parse_shape(input_shape),
            precision=precision,
            accumulate=accumulate or None,
            runs=runs,
            rest_ms=rest_ms,
            progress=progress,
        )
    if as_json:
        print_json(asdict(result))
    else:
        _print(result)


def run_benchmark(
    model: str,
    weights: Path | None,
    *,
    threads: tuple[int, ...] = (1,),
    against: tuple[str, ...] = (),
    shape: tuple[int, ...] | None = None,
    precision: str = "fp32",
    accumulate: str | None = None,
    runs: int = 20,
    rest_ms: float = 0.0,
    progress: Progress | None = None,
) -> Benchmark:
    """Time network ``model`` on random input of ``shape`` (by default one image of the size it was made for).

    ``model`` is a name or the path of an ONNX file: PyTorch then runs its operators one by one, and ONNX Runtime the
    file itself. With a ``precision`` other than fp32, the compiled network in fp32 runs too. ``rest_ms`` milliseconds
    pass before every call that is timed. Raises `FlexgroupError` for wrong input, and where an engine of ``against`` is
    not installed.
    """
    progress = progress or Progress()
    unknown = [name for name in against if name not in AGAINST]
    if unknown:
        raise FlexgroupError(f"--against {unknown[0]!r} is unknown; choose {' or '.join(AGAINST)}")
    check_at_least(runs, 1, "--runs")
    check_at_least(rest_ms, 0, "--rest-ms")

    import torch

    from flexgroup.report import has_onnxruntime, interleaved, this_machine, torch_threads

    with_onnxruntime = "onnxruntime" in against
    if with_onnxruntime and not has_onnxruntime():
        raise FlexgroupError(
            "--against onnxruntime: onnxruntime or onnx is not installed; pip install 'flexgroup[bench]'"
        )
    network, shape = open_network(model, weights, shape)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    peer = model if Path(model).suffix.lower() == ".onnx" else network
    latencies: list[Latency] = []
    memory: dict[int, Memory] = {}
    error = 0.0

    def show_round(number: int) -> None:
        progress.step(number + 1, runs)

    for count in dict.fromkeys(threads):
        with torch_threads(count):
            progress.stage(f"compiling for {count} thread{'s' if count > 1 else ''}")
            numbers = {"precision": precision, "accumulate": accumulate}
            ours, calls = _engines(network, x, count, peer if with_onnxruntime else None, numbers)
            memory[count], error = ours.memory, max(error, ours.error)
            reference = calls["torch"]()
            differences = {name: _difference(call(), reference) for name, call in calls.items()}
            progress.stage(f"timing, {count} thread{'s' if count > 1 else ''}")
            timings = interleaved(calls, rounds=runs, progress=show_round, rest=rest_ms / 1e3)
        fastest = timings[OURS].median_ms
        latencies += [
            Latency(name, count, **asdict(timing), ratio=timing.median_ms / fastest, max_difference=differences[name])
            for name, timing in timings.items()
        ]
    shown = None if weights is None else str(weights)
    machine = asdict(this_machine())
    found = (_sparsity(network), machine, tuple(latencies), memory, rest_ms, precision, error)
    return Benchmark(model, shown, shape, *found)


def _engines(
    network: nn.Module, x: Tensor, threads: int, peer: nn.Module | str | None, numbers: dict[str, Any]
) -> tuple[CompiledModel, dict[str, Callable[[], Any]]]:
    """Our compiled network, and a call of each engine on ``x``, by the engine's name, with ONNX Runtime on ``peer``.

    ``numbers`` are the options of our engine's precision.
    """
    import flexgroup
    from flexgroup.report import onnxruntime_session, torch_session

    sparse = flexgroup.compile(network, (x,), threads=threads, **numbers)
    dense = flexgroup.compile(network, (x,), threads=threads, sparse=False, **numbers)
    eager = torch_session(network)
    calls = {OURS: lambda: sparse(x), f"{OURS}, dense": lambda: dense(x), "torch": lambda: eager(x)}
    if sparse.precision != "fp32":
        single = flexgroup.compile(network, (x,), threads=threads)
        calls[f"{OURS}, fp32"] = lambda: single(x)
    if peer is not None:
        session, array = onnxruntime_session(peer, x, threads), x.numpy()
        calls["onnxruntime"] = lambda: session(array)
    return sparse, calls


def _difference(results: Any, wanted: Any) -> float:
    """The largest absolute difference of any result, whether tensors or arrays."""
    import torch

    from flexgroup.engine import in_order

    pairs = zip(in_order(results), in_order(wanted), strict=True)
    return max(float((torch.as_tensor(result) - want).abs().max()) for result, want in pairs)


def _sparsity(network: nn.Module) -> float:
    matrices = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    total = sum(matrix.numel() for matrix in matrices)
    return 1.0 - sum(int(matrix.count_nonzero()) for matrix in matrices) / total if total else 0.0


def _in_words(ratio: float) -> str:
    return f"{ratio:.2f}x faster" if ratio >= 1 else f"{1 / ratio:.2f}x slower"


def _print(result: Benchmark) -> None:
    shape = "x".join(map(str, result.input))
    table = Table(
        title=f"{escape(result.model)}, {100 * result.sparsity:.1f} % zeros, input {shape}, {result.precision}"
        + f", {result.rest_ms:g} ms of rest before every call" * (result.rest_ms > 0)
    )
    for heading in ("engine", "threads", "median ms", "p10", "p90", "flexgroup is", "differs by"):
        table.add_column(heading, justify="left" if heading == "engine" else "right")
    threads = None
    for row in result.latencies:
        if row.threads != threads and threads is not None:
            table.add_section()
        threads = row.threads
        ratio = "" if row.engine == OURS else _in_words(row.ratio)
        times = (f"{value:.3f}" for value in (row.median_ms, row.p10_ms, row.p90_ms))
        table.add_row(row.engine, str(row.threads), *times, ratio, f"{row.max_difference:.1e}")
    console = stdout_console()
    console.print(table)
    for threads, memory in result.memory.items():
        console.print(f"{OURS}, {threads} thread{'s' if threads > 1 else ''}: {memory}", highlight=False)
    if result.precision != "fp32":
        console.print(f"{OURS} differs from fp32 by {result.error:.1e} of the largest output", highlight=False)
    machine = result.machine
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    console.print(f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}; {versions}", highlight=False)
