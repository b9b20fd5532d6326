"""What ``flexgroup prune`` may do before it prunes: order the channels, and score weights on training images."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from flexgroup.cli._output import Progress
from flexgroup.cli._prune_config import PruneConfig
from flexgroup.cli._prune_latency import DEFAULT_SPARSITY

if TYPE_CHECKING:
    from torch import Tensor, nn

    from flexgroup.zoo import ImageData

CALIBRATION_IMAGES = 2_048


def permute_channels(config: PruneConfig, network: nn.Module, data: ImageData, progress: Progress) -> dict[str, Any]:
    """Order the channels by magnitude, in place; what `flexgroup.pruning.permute` reports, by name.

    With a budget in time there is no sparsity yet; the usual one is near enough.
    """
    import torch

    from flexgroup.pruning import permute

    progress.stage("ordering channels")
    report = permute(
        network,
        (torch.zeros(2, *data.image_shape),),
        config.make_groups(),
        DEFAULT_SPARSITY if config.sparsity is None else config.sparsity,
        budget=config.budget,
        targets=config.targets,
        ignore=config.ignore,
        seed=config.seed,
    )
    progress.line(
        f"groups keep {report.after:.4f} of all magnitude in the new order of channels, {report.before:.4f} before"
    )
    return asdict(report)


def find_scores(config: PruneConfig, network: nn.Module, data: ImageData) -> str | dict[str, Tensor]:
    """The criterion; where it averages over steps and there are none before the choice, its scores on some images."""
    from flexgroup.pruning import sensitivities
    from flexgroup.pruning._criteria import Averaged, find_criterion

    if config.schedule != "oneshot" or not isinstance(find_criterion(config.criterion), Averaged):
        return config.criterion
    data.check_trains()
    images, labels = data.normalise(data.train_images[:CALIBRATION_IMAGES]), data.train_labels[:CALIBRATION_IMAGES]
    return sensitivities(network, images, labels, config.criterion, targets=config.targets, ignore=config.ignore)
