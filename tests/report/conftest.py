"""A report with made-up numbers, as the demo would fill it."""

from __future__ import annotations

import numpy as np
import pytest

from flexgroup import Groups, select
from flexgroup.report import LayerTime, Machine, MaskPicture, Profile, Report, Run, Timing, engine_label

OURS, ORT, TORCH = (engine_label(name, 1) for name in ("flexgroup", "ONNX Runtime", "PyTorch"))
LAYERS = (
    "stem.0",
    "block1.first.0",
    "block1.second.0",
    "down.0",
    "block2.first.0",
    "block2.second.0",
    "linear",
)


def _timing(ms: float) -> Timing:
    return Timing(median_ms=ms, p10_ms=0.9 * ms, p90_ms=1.2 * ms, calls=1000)


def _mask(pattern: str, groups: Groups) -> MaskPicture:
    scores = np.random.default_rng(0).gamma(0.7, size=(64, 576)).astype(np.float32)
    kept = select({"w": scores}, groups, keep=0.1).masks["w"][:32, :32]
    rows = tuple("".join("#" if weight else "." for weight in row) for row in kept)
    return MaskPicture(pattern, "block2.first.0", (64, 576), groups.rows, 0, rows)


def _run(pattern: str, sparsity: float, accuracy: float, ms: float) -> Run:
    return Run(
        pattern,
        sparsity,
        sparsity - 0.0003,
        accuracy,
        {OURS: _timing(ms)},
        accuracy,
        1.5e-6,
        "net.safetensors",
    )


@pytest.fixture(scope="session")
def report() -> Report:
    dense = Run("dense", 0.0, 0.0, 98.89, {OURS: _timing(0.061), ORT: _timing(0.093), TORCH: _timing(0.412)})
    runs = (
        *(
            _run("4x1 aligned", s, a, t)
            for s, a, t in ((0.8, 98.61, 0.029), (0.9, 98.33, 0.021), (0.95, 96.94, 0.017))
        ),
        *(
            _run("4x1 unaligned rows", s, a, t)
            for s, a, t in ((0.8, 98.89, 0.030), (0.9, 98.61, 0.0213), (0.95, 98.06, 0.0172))
        ),
        *(
            _run("fine-grained", s, a, t)
            for s, a, t in ((0.8, 98.89, 0.052), (0.9, 98.89, 0.035), (0.95, 98.33, 0.024))
        ),
    )
    profiles = tuple(
        Profile(
            label,
            tuple(LayerTime(name, "ring_4x1", scale * (i + 2) / 1e3, 0.1) for i, name in enumerate(LAYERS)),
        )
        for label, scale in (("dense", 1.9), ("4x1 unaligned rows, 95 %", 0.5))
    )
    masks = (
        _mask("4x1 aligned", Groups("4x1")),
        _mask("4x1 unaligned rows", Groups("4x1", unaligned="rows")),
        _mask("fine-grained", Groups("1x1")),
    )
    return Report(
        title="flexgroup demo: handwritten digits",
        model="digits_net, 184,000 convolution weights",
        data="scikit-learn's digits, 1,437 training and 360 test images of 8x8 pixels",
        test_images=360,
        machine=Machine("Some CPU, AVX-512", 2, "Linux x86_64", {"flexgroup": "0.1.0", "torch": "2.13.0"}),
        engine=OURS,
        baselines=(ORT, TORCH),
        dense=dense,
        runs=runs,
        featured="4x1 unaligned rows",
        profiles=profiles,
        masks=masks,
        method=("Latency: batch 1, one thread, float32, median of 4,000 calls in 20 interleaved rounds.",),
        notes=("Seed 0.",),
        created="2026-01-01",
    )
