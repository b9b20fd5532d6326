"""Everything that determines a training, as one value: checked when made, compared when a run is resumed."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flexgroup._errors import FlexgroupError
from flexgroup.pruning._rates import WARM_UP


@dataclass(frozen=True)
class Settings:
    """The numbers of `finetune`; see there. Raises `FlexgroupError` for what is wrong whatever the model is."""

    epochs: int
    batch_size: int
    lr: float
    momentum: float = 0.9
    weight_decay: float = 5e-4
    optimizer: str = "sgd"
    optimizer_options: dict[str, Any] = field(default_factory=dict)
    lr_schedule: str = "cosine"
    lr_options: dict[str, Any] = field(default_factory=dict)
    warm_up: float = WARM_UP
    label_smoothing: float = 0.0
    clip: float | None = None
    accumulate: int = 1
    precision: str = "fp32"
    channels_last: bool | None = None
    distill: float = 0.0
    temperature: float = 4.0
    rewind_lr: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise FlexgroupError(f"{name}={value!r} is not a positive integer")
        if not 0.0 < self.lr < math.inf:
            raise FlexgroupError(f"lr={self.lr!r} is not a learning rate; give a number above 0, such as 0.05")
        if not 0.0 <= self.label_smoothing < 1.0:
            raise FlexgroupError(f"label_smoothing={self.label_smoothing!r} is not a share, 0 to below 1; 0.1 is usual")
        if self.clip is not None and not 0.0 < self.clip < math.inf:
            raise FlexgroupError(f"clip={self.clip!r} is not a gradient's norm; give a number above 0, or None")


def settings_record(
    settings: Settings, labels: Tensor, images: Tensor, ranks: int, pruner: str | None
) -> dict[str, Any]:
    """What a checkpoint must agree on with the run that resumes from it, as JSON."""
    digest = hashlib.sha256(labels.to("cpu", torch.int64).contiguous().numpy().tobytes()).hexdigest()
    record = {
        **asdict(settings),
        "images": f"{'x'.join(map(str, images.shape))} {str(images.dtype).removeprefix('torch.')}",
        "labels": digest[:16],
        "processes": ranks,
        "pruner": pruner,
    }
    return json.loads(json.dumps(record, default=repr))  # type: ignore[no-any-return]


def check_same(saved: Mapping[str, Any], now: Mapping[str, Any], file: Path) -> None:
    """Raise `FlexgroupError`, naming the first field that differs, unless a checkpoint is of this very training.

    What a checkpoint does not know, because settings were added since, was as it is by default.
    """
    saved = {**{one.name: one.default for one in fields(Settings) if one.default is not MISSING}, **saved}
    for name in [*now, *saved]:
        if saved.get(name) != now.get(name):
            raise FlexgroupError(
                f"checkpoint {file} is of another training: {name} was {saved.get(name)!r} and is {now.get(name)!r}; "
                f"resume with the same arguments, or start anew"
            )
