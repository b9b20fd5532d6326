"""A report with made-up numbers, as the demo would fill it."""

from __future__ import annotations

import numpy as np
import pytest

from flexgroup import Groups, select
from flexgroup.report import LayerTime, Machine, MaskPicture, Profile, Report, Run, Timing, engine_label

OURS, ORT, TORCH = (engine_label(name, 1) for name in ("flexgroup", "ONNX Runtime", "PyTorch"))
LAYERS = ("stem.0", "block1.first.0", "block1.second.0", "down.0", "block2.first.0", "linear")

# pattern: for 80, 90 and 95 % the accuracy, milliseconds, accuracy before training, share of magnitude kept
RUNS = {
    "4x1 aligned": ((98.6, 0.0290, 98.6, 0.334), (98.4, 0.0210, 91.8, 0.192), (97.0, 0.0170, 45.4, 0.108)),
    "4x1 unaligned rows": ((98.8, 0.0300, 99.2, 0.360), (98.6, 0.0213, 94.4, 0.208), (98.0, 0.0172, 53.8, 0.118)),
    "fine-grained": ((98.8, 0.0520, 99.4, 0.438), (98.8, 0.0350, 99.0, 0.263), (98.4, 0.0240, 95.4, 0.153)),
}


def timing(ms: float) -> Timing:
    return Timing(median_ms=ms, p10_ms=0.9 * ms, p90_ms=1.2 * ms, calls=1000)


def _mask(pattern: str, groups: Groups) -> MaskPicture:
    scores = np.random.default_rng(0).gamma(0.7, size=(64, 576)).astype(np.float32)
    kept = select({"w": scores}, groups, keep=0.1).masks["w"][:32, :32]
    rows = tuple("".join("#" if weight else "." for weight in row) for row in kept)
    return MaskPicture(pattern, "block2.first.0", (64, 576), groups.rows, 0, rows)


def _runs() -> tuple[Run, ...]:
    return tuple(
        Run(
            pattern=pattern,
            sparsity_asked=asked,
            sparsity=asked - 0.0003,
            accuracy=accuracy,
            latency={OURS: timing(ms)},
            engine_accuracy=accuracy,
            max_difference=1.5e-6,
            one_shot_accuracy=one_shot,
            magnitude_kept=kept,
            file="net.safetensors",
        )
        for pattern, figures in RUNS.items()
        for asked, (accuracy, ms, one_shot, kept) in zip((0.8, 0.9, 0.95), figures, strict=True)
    )


def _profile(label: str, scale: float) -> Profile:
    rows = (LayerTime(name, "ring_4x1", scale * (i + 2) / 1e3, 0.1) for i, name in enumerate(LAYERS))
    return Profile(label, tuple(rows))


@pytest.fixture(scope="session")
def report() -> Report:
    times = {OURS: timing(0.061), ORT: timing(0.093), TORCH: timing(0.412)}
    return Report(
        title="flexgroup demo: handwritten digits",
        model="digits_net, 184,000 convolution weights",
        data="scikit-learn's digits, 1,297 training and 500 test images of 8x8 pixels",
        test_images=500,
        machine=Machine("Some CPU, AVX-512", 2, "Linux x86_64", {"flexgroup": "0.1.0", "torch": "2.13.0"}),
        engine=OURS,
        baselines=(ORT, TORCH),
        dense=Run("dense", 0.0, 0.0, 98.8, times),
        runs=_runs(),
        featured="4x1 unaligned rows",
        profiles=(_profile("dense", 1.9), _profile("4x1 unaligned rows, 95 %", 0.5)),
        masks=(
            _mask("4x1 aligned", Groups("4x1")),
            _mask("4x1 unaligned rows", Groups("4x1", unaligned="rows")),
            _mask("fine-grained", Groups("1x1")),
        ),
        method=("Latency: batch 1, one thread, float32, median of 4,000 calls in 20 interleaved rounds.",),
        notes=("Seed 0.",),
        created="2026-01-01",
    )
