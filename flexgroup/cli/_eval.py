"""``flexgroup eval``: how well a network classifies, in PyTorch or compiled."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flexgroup._errors import FlexgroupError
from flexgroup.cli._network import check_classifies, load_network
from flexgroup.cli._options import JsonOption, ModelOption, WeightsOption, check_at_least
from flexgroup.cli._output import Progress, print_json, working

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from flexgroup.zoo import ImageData

ENGINES = ("flexgroup", "torch")
BATCH_NUMBERS = 4_000_000  # in one call: 100 small images, 26 of 224x224, so that activations do not fill the memory


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
    data: Annotated[
        str, typer.Option("--data", help="Data set: digits, cifar10:FOLDER, or imagenet:FOLDER (photographs).")
    ],
    weights: WeightsOption = None,
    engine: Annotated[str, typer.Option("--engine", help="flexgroup (compiled) or torch.")] = "flexgroup",
    threads: Annotated[int, typer.Option("--threads", help="Threads to use.")] = 1,
    batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", help="Images in one call; by default 100, fewer if they are large."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure the accuracy on the test images, in PyTorch or compiled.

    Photographs are normalised as the network's public weights expect.

    \b
    Examples:
      flexgroup eval --model resnet20 --weights RUN/model.safetensors
          --data cifar10:data --engine flexgroup
      flexgroup eval --model mobilenet_v2 --weights mobilenet_v2.safetensors
          --data imagenet:photographs
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
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate network ``model`` on the test images of ``data``; raises `FlexgroupError` for wrong input.

    Without ``batch_size`` a call gets 100 images, or fewer where they are large.
    """
    progress = progress or Progress()
    if engine not in ENGINES:
        raise FlexgroupError(f"--engine {engine!r} is unknown; choose {' or '.join(ENGINES)}")
    check_at_least(threads, 1, "--threads")
    if batch_size is not None:
        check_at_least(batch_size, 1, "--batch-size")

    import flexgroup
    from flexgroup.report import torch_session, torch_threads
    from flexgroup.zoo import load_data, normalisation

    network = load_network(model, weights)
    progress.stage(f"reading {data}")
    dataset = load_data(data, normalisation(model))
    check_classifies(network, model, dataset, data)
    batch_size = batch_size or max(1, min(100, BATCH_NUMBERS // math.prod(dataset.image_shape)))
    labels = dataset.test_labels
    with torch_threads(threads):
        reference, seconds = _logits(torch_session(network), dataset, batch_size, progress, "torch")
    right = _percent(reference, labels)
    shown = None if weights is None else str(weights)
    if engine == "torch":
        return Evaluation(model, shown, data, engine, threads, len(labels), right, seconds)
    progress.stage("compiling")
    example = dataset.normalise(dataset.test_images[:1])
    compiled = flexgroup.compile(network, (example,), threads=threads)
    logits, seconds = _logits(compiled, dataset, batch_size, progress, "flexgroup")
    return Evaluation(
        model,
        shown,
        data,
        engine,
        threads,
        len(labels),
        _percent(logits, labels),
        seconds,
        torch_accuracy=right,
        max_logit_difference=float((logits - reference).abs().max()),
    )


def _logits(
    run: Callable[[Tensor], Tensor], dataset: ImageData, batch_size: int, progress: Progress, name: str
) -> tuple[Tensor, float]:
    """The logits of all test images, and the seconds spent in ``run``.

    Images are normalised batch by batch: all of them as floats would take four times the memory of the data set.
    """
    import torch

    progress.stage(f"classifying with {name}")
    images = dataset.test_images
    logits, seconds = [], 0.0
    for pixels in torch.split(images, batch_size):
        batch = dataset.normalise(pixels)
        began = time.perf_counter()
        logits.append(run(batch))
        seconds += time.perf_counter() - began
        progress.step(min(len(logits) * batch_size, len(images)), len(images))
    return torch.cat(logits), seconds


def _percent(logits: Tensor, labels: Tensor) -> float:
    return 100.0 * int((logits.argmax(1) == labels).sum()) / len(labels)
