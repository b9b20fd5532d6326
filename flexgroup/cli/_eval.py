"""``flexgroup eval``: how well a network classifies, in PyTorch or compiled."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flexgroup._errors import FlexgroupError
from flexgroup.cli._network import check_classifies, load_network
from flexgroup.cli._options import DataOption, JsonOption, ModelOption, WeightsOption, check_at_least
from flexgroup.cli._output import Progress, print_json, working

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

ENGINES = ("flexgroup", "torch")


@dataclass(frozen=True)
class Evaluation:
    """Top-1 accuracy in percent over the test images, and the seconds that the engine took for them.

    For the compiled network also PyTorch's accuracy, and the largest difference between any two logits.
    """

    model: str
    weights: str | None
    data: str
    engine: str
    threads: int
    images: int
    accuracy: float
    seconds: float
    torch_accuracy: float | None = None
    max_logit_difference: float | None = None


def evaluate(
    model: ModelOption,
    data: DataOption,
    weights: WeightsOption = None,
    engine: Annotated[str, typer.Option("--engine", help="flexgroup (compiled) or torch.")] = "flexgroup",
    threads: Annotated[int, typer.Option("--threads", help="Threads to use.")] = 1,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Images in one call.")] = 100,
    as_json: JsonOption = False,
) -> None:
    """Measure the accuracy on the test images, in PyTorch or compiled.

    \b
    Example:
      flexgroup eval --model resnet20 --weights RUN/model.safetensors
          --data cifar10:data --engine flexgroup
    """
    progress = Progress(shown=True)
    with working(progress):
        result = run_evaluation(
            model, weights, data, engine=engine, threads=threads, batch_size=batch_size, progress=progress
        )
    if as_json:
        print_json(asdict(result))
        return
    print(
        f"{result.accuracy:.2f} % of {result.images} images right, {result.engine}, {result.seconds:.2f} s "
        f"({threads} thread{'s' if threads > 1 else ''}, {result.images / result.seconds:.0f} images/s)"
    )
    if result.torch_accuracy is not None:
        print(
            f"PyTorch: {result.torch_accuracy:.2f} %; largest difference of a logit: {result.max_logit_difference:.2g}"
        )


def run_evaluation(
    model: str,
    weights: Path | None,
    data: str,
    *,
    engine: str = "flexgroup",
    threads: int = 1,
    batch_size: int = 100,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate network ``model`` on the test images of ``data``; raises `FlexgroupError` for wrong input."""
    progress = progress or Progress()
    if engine not in ENGINES:
        raise FlexgroupError(f"--engine {engine!r} is unknown; choose {' or '.join(ENGINES)}")
    check_at_least(threads, 1, "--threads")
    check_at_least(batch_size, 1, "--batch-size")

    import flexgroup
    from flexgroup.report import torch_session, torch_threads
    from flexgroup.zoo import load_data

    network = load_network(model, weights)
    progress.stage(f"reading {data}")
    dataset = load_data(data)
    check_classifies(network, model, dataset, data)
    images, labels = dataset.test()
    with torch_threads(threads):
        reference, seconds = _logits(torch_session(network), images, batch_size, progress, "torch")
    right = _percent(reference, labels)
    shown = None if weights is None else str(weights)
    if engine == "torch":
        return Evaluation(model, shown, data, engine, threads, len(images), right, seconds)
    progress.stage("compiling")
    compiled = flexgroup.compile(network, (images[:1],), threads=threads)
    logits, seconds = _logits(compiled, images, batch_size, progress, "flexgroup")
    return Evaluation(
        model,
        shown,
        data,
        engine,
        threads,
        len(images),
        _percent(logits, labels),
        seconds,
        torch_accuracy=right,
        max_logit_difference=float((logits - reference).abs().max()),
    )


def _logits(
    run: Callable[[Tensor], Tensor], images: Tensor, batch_size: int, progress: Progress, name: str
) -> tuple[Tensor, float]:
    """All logits, and the seconds spent in ``run``."""
    import torch

    progress.stage(f"classifying with {name}")
    logits, seconds = [], 0.0
    for batch in torch.split(images, batch_size):
        began = time.perf_counter()
        logits.append(run(batch))
        seconds += time.perf_counter() - began
        progress.step(min(len(logits) * batch_size, len(images)), len(images))
    return torch.cat(logits), seconds


def _percent(logits: Tensor, labels: Tensor) -> float:
    return 100.0 * int((logits.argmax(1) == labels).sum()) / len(labels)
