"""What determines the result of a pruning run, as one value: checked when made, compared when a run is resumed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flexgroup._errors import FlexgroupError
from flexgroup.cli._options import check_at_least
from flexgroup.cli._prune_latency import check_time

if TYPE_CHECKING:
    from flexgroup.groups import Groups
    from flexgroup.pruning import Schedule
    from flexgroup.pruning._settings import Settings

LR = "lr"  # --rewind: the learning rate alone
SCHEDULES = ("constant", "cubic", "iterative", "oneshot")
CHOOSING_SHARE = 0.6  # of the steps; the rest trains the final pattern
CHOICES = 40


@dataclass(frozen=True)
class PruneConfig:
    """Everything that determines the result of a run; ``threads`` 0 leaves the number to PyTorch.

    Raises `FlexgroupError` for what is wrong whatever the model and the data are.
    """

    model: str
    weights: str | None
    data: str
    groups: str
    unaligned: str | None
    sparsity: float | None
    budget: str
    criterion: str
    targets: tuple[str, ...] | None
    ignore: tuple[str, ...]
    epochs: int
    schedule: str
    lr: float
    batch_size: int
    reestimate: bool
    seed: int
    threads: int
    optimizer: str = "sgd"
    optimizer_options: Mapping[str, Any] = field(default_factory=dict)
    lr_schedule: str = "cosine"
    lr_options: Mapping[str, Any] = field(default_factory=dict)
    label_smoothing: float = 0.0
    clip: float | None = None
    accumulate: int = 1
    precision: str = "auto"
    distill: float = 0.0
    temperature: float = 4.0
    validation: int = 0
    speedup: float | None = None
    latency_ms: float | None = None
    latency_threads: int = 1
    rounds: int = 5
    regrowth: str = "memory"
    shrink: float = 0.0
    permute: bool = False
    refit: int = 0
    rewind: str | None = None

    def __post_init__(self) -> None:
        from flexgroup.groups import Groups

        Groups(self.groups, self.unaligned)
        for name in ("epochs", "seed", "threads", "validation", "refit"):
            check_at_least(getattr(self, name), 0, f"--{name}")
        check_time(self.sparsity, self.speedup, self.latency_ms, self.budget)
        for name in ("batch_size", "accumulate", "latency_threads", "rounds"):
            check_at_least(getattr(self, name), 1, f"--{name.replace('_', '-')}")
        if not 0 < self.lr < float("inf"):
            raise FlexgroupError(f"--lr {self.lr:g} is not a learning rate; give a number above 0, such as 0.05")
        if self.schedule not in SCHEDULES:
            raise FlexgroupError(f"--schedule {self.schedule!r} is unknown; choose one of {', '.join(SCHEDULES)}")
        if self.schedule != "oneshot" and not self.epochs:
            raise FlexgroupError(
                f"--schedule {self.schedule} prunes while it trains; give --epochs 1 or more, or oneshot"
            )
        if self.refit and self.schedule != "oneshot":
            raise FlexgroupError(
                f"--refit fits what is pruned at once, and --schedule {self.schedule} prunes later; use oneshot"
            )
        if self.rewind is not None and self.schedule != "iterative":
            raise FlexgroupError(
                f"--rewind goes back after each round of --schedule iterative, and the schedule is {self.schedule}; "
                f"give that schedule, or leave --rewind out"
            )
        if self.rewind is not None:
            _epoch(self.rewind)

    def make_groups(self) -> Groups:
        from flexgroup.groups import Groups

        return Groups(self.groups, self.unaligned)

    def make_schedule(self, images: int) -> Schedule:
        """When to prune, in a training on so many images."""
        from flexgroup.pruning import Constant, Cubic, Iterative, OneShot, training_steps

        if self.schedule == "oneshot":
            return OneShot()
        steps = training_steps(images, self.batch_size, self.epochs)
        if self.rewind is not None:
            return self._rewinding(self.rewind, steps)
        end = max(1, round(CHOOSING_SHARE * steps))
        every = max(1, end // CHOICES)
        if self.schedule == "iterative":
            if end < self.rounds:
                raise FlexgroupError(f"--rounds {self.rounds} are more than the {end} steps to prune in; train longer")
            return Iterative(self.rounds, every=end // self.rounds)
        if self.schedule == "constant":  # not before the first step: criteria may need its gradients
            return Constant(begin=every, end=max(end, every + 1), every=every)
        return Cubic(begin=0, end=end, every=every)

    def _rewinding(self, rewind: str, steps: int) -> Schedule:
        """Rounds that are as long as what follows the last one."""
        from flexgroup.pruning import Iterative

        back, every = round(_epoch(rewind) * steps / self.epochs), steps // (self.rounds + 1)
        if back >= every:
            further = "" if rewind == LR else ", or go back further"
            raise FlexgroupError(
                f"--rewind {rewind} goes back to step {back}, but {self.rounds} rounds in {steps} steps prune "
                f"first at step {every}; train longer, or use fewer --rounds{further}"
            )
        return Iterative(self.rounds, every=every, rewind=None if rewind == LR else back)

    def training(self) -> Settings:
        """The arguments of `flexgroup.finetune` that are here."""
        from flexgroup.pruning._settings import Settings

        return Settings(
            epochs=self.epochs,
            batch_size=self.batch_size,
            lr=self.lr,
            optimizer=self.optimizer,
            optimizer_options=dict(self.optimizer_options),
            lr_schedule=self.lr_schedule,
            lr_options=dict(self.lr_options),
            label_smoothing=self.label_smoothing,
            clip=self.clip,
            accumulate=self.accumulate,
            precision=self.precision,
            distill=self.distill,
            temperature=self.temperature,
            rewind_lr=self.rewind == LR,
            seed=self.seed,
        )

    def check_same(self, file: Path, saved: Mapping[str, Any]) -> None:
        """Raise `FlexgroupError`, naming the first option that differs, unless ``saved`` is this configuration."""
        now = json.loads(json.dumps(asdict(self)))
        for name in [*now, *saved]:
            if saved.get(name) != now.get(name):
                raise FlexgroupError(
                    f"--resume: the run in {file.parent} has {name} {saved.get(name)!r}, now it is {now.get(name)!r}; "
                    f"give the same options, or another --out"
                )


def _epoch(rewind: str) -> float:
    """The epoch to go back to, 0 for the learning rate alone; raises `FlexgroupError` for what is neither."""
    try:
        epoch = 0.0 if rewind == LR else float(rewind)
    except ValueError:
        epoch = -1.0
    if not 0 <= epoch < float("inf"):
        raise FlexgroupError(f"--rewind {rewind!r} is neither an epoch, such as 1 or 0.5, nor {LR}")
    return epoch


def parse_options(texts: list[str] | None, option: str) -> dict[str, Any]:
    """``["betas=[0.9,0.99]", "name=text"]`` -> values by name, each JSON or text; lists become tuples.

    Raises `FlexgroupError` for what is not NAME=VALUE.
    """
    values: dict[str, Any] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise FlexgroupError(f"{option} {text!r} is not NAME=VALUE; write for example {option} weight_decay=0.01")
        try:
            parsed = json.loads(value)
        except ValueError:
            parsed = value
        values[name] = tuple(parsed) if isinstance(parsed, list) else parsed
    return values
