"""The demo's measurements: networks are compiled, compared with PyTorch, and timed against other engines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from flexgroup._errors import FlexgroupError
from flexgroup.cli._output import Progress
from flexgroup.report import (
    LayerTime,
    Profile,
    Run,
    Timing,
    engine_label,
    has_onnxruntime,
    interleaved,
    onnxruntime_session,
    torch_session,
    torch_threads,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from flexgroup.engine import CompiledModel
    from flexgroup.zoo import ImageData

TOLERANCE = 1e-3  # of a logit
OURS, TORCH, ONNXRUNTIME = "flexgroup", "PyTorch", "ONNX Runtime"


@dataclass(frozen=True, eq=False)
class Candidate:
    """A trained network and what is known of it so far; its ``run.pattern`` is ``"dense"`` if it is not pruned."""

    network: nn.Module
    run: Run

    def __str__(self) -> str:
        return self.run.pattern + (f", {100 * self.run.sparsity_asked:g} %" if self.run.sparsity_asked else "")


@dataclass(frozen=True, eq=False)
class Compiled:
    """A candidate in native code."""

    candidate: Candidate
    fast: CompiledModel

    def profile(self, example: Tensor) -> Profile:
        """Where its time goes, step by step."""
        rows = self.fast.profile(example).rows
        return Profile(str(self.candidate), tuple(LayerTime(r.name, r.kernel, r.ms, r.share, r.gflops) for r in rows))


def compile_and_verify(candidate: Candidate, data: ImageData, threads: int) -> Compiled:
    """Compile for one image, and compare with PyTorch on all test images.

    The dense network is compiled to dense code. The candidate that comes back has ``engine_accuracy`` and
    ``max_difference``. Raises `FlexgroupError` if a logit differs by more than 1e-3.
    """
    import torch

    import flexgroup

    images, labels = data.test()
    fast = flexgroup.compile(candidate.network, (images[:1],), threads=threads, sparse=candidate.run.pattern != "dense")
    with torch.inference_mode():
        expected = candidate.network.eval()(images)
    logits = fast(images)
    difference = float((logits - expected).abs().max())
    if not difference <= TOLERANCE:
        raise FlexgroupError(
            f"{candidate}: a logit of the compiled network differs from PyTorch's by {difference:.1e}, more than "
            f"{TOLERANCE:g}; please report this with the weights in {candidate.run.file}"
        )
    right = 100.0 * int((logits.argmax(1) == labels).sum()) / len(labels)
    run = replace(candidate.run, engine_accuracy=right, max_difference=difference)
    return Compiled(replace(candidate, run=run), fast)


def time_all(
    compiled: Sequence[Compiled], example: Tensor, threads: int, rounds: int, progress: Progress
) -> tuple[Run, ...]:
    """The runs of ``compiled``, the dense one first, with the latency of one image.

    All networks and, for the dense one, the other engines that are installed take turns in one process.
    """
    dense = compiled[0].candidate.network
    ours = {f"ours {number}": _call(one.fast, example) for number, one in enumerate(compiled)}
    peers: dict[str, Callable[[], object]] = {}
    if has_onnxruntime():
        session, array = onnxruntime_session(dense, example, threads), example.numpy()
        peers[engine_label(ONNXRUNTIME, threads)] = lambda: session(array)
    eager = torch_session(dense)
    peers[engine_label(TORCH, threads)] = lambda: eager(example)

    def show_round(number: int) -> None:
        progress.step(number + 1, rounds)

    with torch_threads(threads):
        timings = interleaved({**ours, **peers}, rounds=rounds, progress=show_round)
    label = engine_label(OURS, threads)
    latencies: list[dict[str, Timing]] = [{label: timings[name]} for name in ours]
    latencies[0] |= {name: timings[name] for name in peers}
    return tuple(replace(one.candidate.run, latency=latency) for one, latency in zip(compiled, latencies, strict=True))


def _call(fast: CompiledModel, example: Tensor) -> Callable[[], object]:
    return lambda: fast(example)
