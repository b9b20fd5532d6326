"""When and how a network in training is pruned: masks, schedules, criteria, and a small training loop."""

from flexgroup.pruning._evaluate import accuracy, reestimate_batch_norm
from flexgroup.pruning._finetune import Epoch, History, crop_and_flip, finetune, training_steps
from flexgroup.pruning._mask import finalize
from flexgroup.pruning._pruner import Pruner, prune
from flexgroup.pruning._schedules import Cubic, OneShot, Schedule
from flexgroup.pruning._targets import weight_matrices

__all__ = [
    "Cubic",
    "Epoch",
    "History",
    "OneShot",
    "Pruner",
    "Schedule",
    "accuracy",
    "crop_and_flip",
    "finalize",
    "finetune",
    "prune",
    "reestimate_batch_norm",
    "training_steps",
    "weight_matrices",
]
