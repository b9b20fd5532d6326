"""When and how a network in training is pruned: masks, schedules, criteria, and a small training loop."""

from flexgroup.pruning._admm import ADMM
from flexgroup.pruning._augment import crop_and_flip
from flexgroup.pruning._batches import training_steps
from flexgroup.pruning._criteria import Fisher, Movement, Taylor, Wanda
from flexgroup.pruning._evaluate import accuracy, reestimate_batch_norm
from flexgroup.pruning._finetune import finetune
from flexgroup.pruning._latency import LatencyBudget, LatencyCheck, latency_budget
from flexgroup.pruning._mask import finalize
from flexgroup.pruning._metrics import Epoch, History, Metrics
from flexgroup.pruning._permute import Permuted, permute
from flexgroup.pruning._pruner import Pruner, prune
from flexgroup.pruning._rates import RATES
from flexgroup.pruning._refit import Refitted, refit
from flexgroup.pruning._schedules import Constant, Cubic, Iterative, OneShot, Schedule
from flexgroup.pruning._sensitivity import sensitivities
from flexgroup.pruning._targets import weight_matrices

__all__ = [
    "ADMM",
    "RATES",
    "Constant",
    "Cubic",
    "Epoch",
    "Fisher",
    "History",
    "Iterative",
    "LatencyBudget",
    "LatencyCheck",
    "Metrics",
    "Movement",
    "OneShot",
    "Permuted",
    "Pruner",
    "Refitted",
    "Schedule",
    "Taylor",
    "Wanda",
    "accuracy",
    "crop_and_flip",
    "finalize",
    "finetune",
    "latency_budget",
    "permute",
    "prune",
    "reestimate_batch_norm",
    "refit",
    "sensitivities",
    "training_steps",
    "weight_matrices",
]
