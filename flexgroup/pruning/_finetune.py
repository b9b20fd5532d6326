"""A training loop on images in memory, for the command line, the demo and the experiments; on Accelerate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flexgroup._errors import FlexgroupError
from flexgroup.pruning._accelerate import accelerator_for
from flexgroup.pruning._augment import Augment
from flexgroup.pruning._batches import Batches, Normalise, shares, training_steps
from flexgroup.pruning._checkpoints import read_checkpoint
from flexgroup.pruning._distillation import check_teacher
from flexgroup.pruning._distributed import rank, ranks, reshard
from flexgroup.pruning._evaluate import check_images, device_of, in_mode
from flexgroup.pruning._metrics import Epoch, History, Metrics
from flexgroup.pruning._optimizers import make_optimizer
from flexgroup.pruning._precision import arithmetic, check_precision, faster_arithmetic
from flexgroup.pruning._pruner import Pruner
from flexgroup.pruning._rates import WARM_UP, check_rewinding, find_rate
from flexgroup.pruning._settings import Settings
from flexgroup.pruning._training import Training


def finetune(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    validation_images: Tensor,
    validation_labels: Tensor,
    *,
    epochs: int,
    batch_size: int = 128,
    lr: float = 0.05,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    optimizer: str = "sgd",
    optimizer_options: Mapping[str, Any] | None = None,
    lr_schedule: str = "cosine",
    lr_options: Mapping[str, Any] | None = None,
    warm_up: float = WARM_UP,
    label_smoothing: float = 0.0,
    clip: float | None = None,
    accumulate: int = 1,
    precision: str = "fp32",
    channels_last: bool | None = None,
    teacher: nn.Module | None = None,
    distill: float = 0.0,
    temperature: float = 4.0,
    pruner: Pruner | None = None,
    rewind_lr: bool = False,
    seed: int = 0,
    normalise: Normalise | None = None,
    augment: Augment | None = None,
    checkpoints: Path | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
    trackers: Sequence[str] = (),
    tracker_folder: Path | None = None,
    on_step: Callable[[int, int], None] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    on_message: Callable[[str], None] | None = None,
    metrics: Path | Metrics | None = None,
) -> History:
    """Train ``model`` in place; by default SGD with Nesterov momentum, a short warm-up, then a cosine down to zero.

    The model stays on its device; batches are moved there. The same seed gives the same weights on the same machine
    with the same number of threads; torch's global random state is left as it was. Under ``torchrun`` or ``accelerate
    launch`` all processes train together: the images of a step are shared out, so that the result is that of one
    process but for rounding and for batch norms, whose statistics in training are each process's own. Where parameters
    are sharded (``torch.distributed.fsdp.fully_shard``) they stay so. Only the first process writes files.

    Args:
        images, labels: (N, C, H, W) normalised and floating-point, or uint8 with ``normalise``, a function from uint8
            to normalised images that is applied batch by batch; (N,) integers.
        validation_images, validation_labels: the same; classified at the end of every epoch.
        epochs, batch_size: an epoch leaves out a last batch that is not full. A batch is one step of the optimizer,
            however many processes and parts share it.
        lr, lr_schedule, lr_options, warm_up: the highest learning rate; how it falls (`RATES`), with its options;
            the share of the steps over which it rises. With rewinding, the steps from one start to the next choice.
        optimizer, optimizer_options: any of torch.optim by name, with further arguments. ``momentum`` is for those that
            have it; ``weight_decay`` is for matrices and kernels only, not for biases and norms.
        clip: the largest norm of all gradients together.
        accumulate: work through a batch in so many parts, which takes less memory.
        precision, channels_last: ``"fp32"``; ``"bf16"`` or ``"fp16"`` (GPU) autocast; or ``"auto"``: fp32 or bf16,
            with images in planes or channels-last, whichever a few timed steps find the fastest. Channels-last are
            bf16 and fp16, and fp32 is not, unless it is said.
        teacher, distill, temperature: ``distill`` is the share of the loss that compares with the teacher's logits
            (`training_loss`); the teacher is not changed.
        pruner: made on this model; every step is one of its steps, except those that fp16 leaves out. It is
            not finalized here. Without one, the zeros of a pruned model would fill up again. Where its schedule rewinds
            the weights, the learning rate goes back with them (`Iterative.position`).
        rewind_lr: the learning rate alone goes back after each choice of an `Iterative` schedule, to where it began.
        augment: ``augment(images, generator)`` changes each batch, `crop_and_flip` for example.
        checkpoints: a folder to keep the last two checkpoints in, one an epoch and every ``checkpoint_every`` steps.
            With ``resume=True`` the training goes on from the newest one that is whole, to the weights that it would
            have had (to the bit in one process); where there is none it begins.
        trackers: of Accelerate, by name, such as ``"tensorboard"``, which writes into ``tracker_folder``.
        on_step, on_epoch: ``on_step(step, steps)`` and ``on_epoch(epoch)`` are called after each; ``on_message(text)``
            when there is something to know, such as the precision that was chosen.
        metrics: a file to which each epoch is written, one JSON object a line, as soon as it ends.

    Raises:
        FlexgroupError: before the first step and before anything is written, for data of the wrong shape, labels that
            the model has no output for, unknown names and options, a schedule that does not end within the training,
            a checkpoint of another network or training; later, for a loss that is not finite.
    """
    check_images(images, labels, normalise is not None)
    check_images(validation_images, validation_labels, normalise is not None)
    settings = Settings(
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        optimizer=optimizer,
        optimizer_options=dict(optimizer_options or {}),
        lr_schedule=lr_schedule,
        lr_options=dict(lr_options or {}),
        warm_up=warm_up,
        label_smoothing=label_smoothing,
        clip=clip,
        accumulate=accumulate,
        precision=precision,
        channels_last=channels_last,
        distill=distill,
        temperature=temperature,
        rewind_lr=rewind_lr,
        seed=seed,
    )
    device, steps = device_of(model), training_steps(len(images), batch_size, epochs)
    check_checkpoints(checkpoints, checkpoint_every, resume)
    made = check_training(model, len(images), settings, pruner, teacher)
    _check_classes(model, images, (labels, validation_labels), normalise)
    saved = read_checkpoint(checkpoints) if checkpoints is not None and resume else None
    say = on_message or (lambda text: None)
    with ExitStack() as stack:
        if saved is not None:
            chosen = arithmetic(saved.state["precision"], saved.state.get("channels_last"))
        elif precision == "auto":
            probe = Batches(images, labels, device, seed=seed, normalise=normalise)
            few = probe.at(torch.arange(min(len(images), batch_size)), 0)
            chosen, why = faster_arithmetic(model, *few, channels_last)
            say(why)
        else:
            chosen = arithmetic(precision, channels_last)
        accelerator = stack.enter_context(
            accelerator_for(device, chosen.precision, accumulate, trackers, tracker_folder)
        )
        batches = Batches(
            images,
            labels,
            device,
            seed=seed,
            rank=rank(),
            ranks=ranks(),
            normalise=normalise,
            augment=augment,
            memory_format=chosen.layout,
        )
        training = Training(
            model, images, labels, settings, accelerator, made, pruner, batches, steps, chosen,
            teacher=teacher if distill else None,
        )  # fmt: skip
        stack.enter_context(torch.random.fork_rng(devices=[device] if device.type == "cuda" else []))
        torch.manual_seed(seed + rank())
        if saved is not None:
            training.load(saved)
            say(f"resumed at step {saved.step} of {steps} from {saved.file}")
        stack.enter_context(in_mode(model, training=True))
        log = _open_metrics(stack, metrics, resumed=saved is not None)
        if log is not None and saved is not None:
            log.cut(saved.state["metrics_bytes"])
        if trackers:
            training.start_trackers(trackers)
        training.run(
            (validation_images, validation_labels, normalise),
            checkpoints=checkpoints,
            checkpoint_every=checkpoint_every,
            metrics=log,
            on_step=on_step,
            on_epoch=on_epoch,
        )
    return History(tuple(training.records), chosen.precision, chosen.channels_last)


def check_training(
    model: nn.Module, samples: int, settings: Settings, pruner: Pruner | None, teacher: nn.Module | None
) -> torch.optim.Optimizer:
    """The optimizer; raises `FlexgroupError` for all that can be known to be wrong."""
    device, steps = device_of(model), training_steps(samples, settings.batch_size, settings.epochs)
    shares(samples, settings.batch_size, settings.accumulate, ranks())
    check_precision(settings.precision, device)
    check_teacher(teacher, settings.distill, settings.temperature, device)
    check_schedule(pruner, steps, settings.epochs)
    find_rate(settings.lr_schedule, steps, settings.lr_options, settings.warm_up)
    check_rewinding(pruner, settings.rewind_lr)
    wanted = (settings.lr, settings.momentum, settings.weight_decay, settings.optimizer_options)
    return make_optimizer(model.parameters(), settings.optimizer, *wanted)


def check_schedule(pruner: Pruner | None, steps: int, epochs: int) -> None:
    """Raise `FlexgroupError` if the pruner's schedule does not end within so many steps."""
    if pruner is not None and pruner.schedule.last > pruner.steps + steps:
        raise FlexgroupError(
            f"the schedule ends at step {pruner.schedule.last}, but the training ends at step "
            f"{pruner.steps + steps} ({epochs} epochs of {steps // epochs}); "
            f"train longer, or end the schedule earlier"
        )


def check_checkpoints(folder: Path | None, every: int | None, resume: bool) -> None:
    """Raise `FlexgroupError` for an interval that is not one, and for wishes that need a folder but have none."""
    if every is not None and (not isinstance(every, int) or isinstance(every, bool) or every < 1):
        raise FlexgroupError(f"checkpoint_every={every!r} is not a number of steps; give 1 or more, or None")
    if folder is None and (resume or every is not None):
        raise FlexgroupError(
            f"{'resume' if resume else 'checkpoint_every'} without checkpoints; give checkpoints=, their folder"
        )


def _check_classes(model: nn.Module, images: Tensor, labels: tuple[Tensor, ...], normalise: Normalise | None) -> None:
    """Raise `FlexgroupError` unless the model has an output for every label."""
    batch = images[:1].to(device_of(model))
    with in_mode(model, training=False), torch.no_grad():
        logits = model(batch if normalise is None else normalise(batch))
    reshard(model)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise FlexgroupError(f"the model gives {shape} for one image; it must give (1, classes) logits")
    for part in labels:
        least, most = int(part.min()), int(part.max())
        if least < 0 or most >= logits.shape[1]:
            raise FlexgroupError(
                f"labels run from {least} to {most}, but the model has {logits.shape[1]} outputs; "
                f"labels must lie in 0..{logits.shape[1] - 1}"
            )


def _open_metrics(stack: ExitStack, metrics: Path | Metrics | None, resumed: bool) -> Metrics | None:
    if rank() != 0:
        return None
    if isinstance(metrics, Path):
        return stack.enter_context(Metrics(metrics, resume=resumed))
    return metrics
