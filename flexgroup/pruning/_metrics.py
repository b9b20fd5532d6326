"""What a training measures: epoch by epoch, as values, as lines of JSON, and through trackers."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any


@dataclass(frozen=True)
class Epoch:
    """One epoch: accuracies in percent (in training, over augmented batches), ``seconds`` of training alone.

    ``step`` is the number of steps so far, ``loss`` the epoch's mean, ``lr`` that of its last step;
    ``sparsity`` is None without a pruner.
    """

    epoch: int
    step: int
    loss: float
    train_accuracy: float
    validation_accuracy: float
    lr: float
    sparsity: float | None
    seconds: float


@dataclass(frozen=True)
class History:
    """What `finetune` measured, one `Epoch` after the other, and the precision and layout that it trained in."""

    epochs: tuple[Epoch, ...]
    precision: str = "fp32"
    channels_last: bool = False

    @property
    def accuracy(self) -> float:
        """The last validation accuracy, in percent."""
        return self.epochs[-1].validation_accuracy


class Metrics:
    """A file of JSON objects, one a line; each is with the system when `add` returns, whatever kills the process.

    A new run starts an empty file. A resumed one goes on with what is there, after `cut` to the checkpoint's size.
    """

    def __init__(self, path: Path, *, resume: bool = False) -> None:
        self.path = path
        self._stream = path.open("ab" if resume else "wb")

    @property
    def size(self) -> int:
        """How many bytes there are."""
        return self._stream.tell()

    def add(self, **values: Any) -> None:
        self._stream.write(json.dumps(values, allow_nan=False).encode() + b"\n")
        self._stream.flush()

    def add_epoch(self, epoch: Epoch) -> None:
        self.add(event="epoch", **asdict(epoch))

    def cut(self, size: int) -> None:
        """Forget all after the first ``size`` bytes: what came after the checkpoint will come again."""
        self._stream.truncate(min(size, self.size))
        self._stream.seek(0, os.SEEK_END)

    def sync(self) -> None:
        """Make what is written last through a loss of power."""
        os.fsync(self._stream.fileno())

    def __enter__(self) -> Metrics:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()
