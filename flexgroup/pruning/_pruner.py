"""The pruner: keeps a pattern of groups on a model in training, and chooses it anew as the schedule says."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn

from flexgroup._errors import FlexgroupError
from flexgroup.groups import BUDGETS, Groups, Limits, select, select_relaxed
from flexgroup.pruning._criteria import Averaged, Criterion, check_finite, find_criterion
from flexgroup.pruning._distributed import from_first_rank, whole
from flexgroup.pruning._erdos_renyi import erdos_renyi
from flexgroup.pruning._gather import Averages
from flexgroup.pruning._mask import Mask, attach, finalize, is_masked
from flexgroup.pruning._packing import pack, unpack
from flexgroup.pruning._regrowth import check_regrowth, forget_pruned, shrink_pruned
from flexgroup.pruning._rewind import check_remembered, remember, restore
from flexgroup.pruning._schedules import OneShot, Schedule, check_sparsity
from flexgroup.pruning._scoring import check_scores, check_signed, layer_scores
from flexgroup.pruning._targets import ORDERS, PYTORCH_ORDER, as_matrix, check_layers, find_layers, listed

BY_SIZE = {"erdos-renyi": "layer", "erdos-renyi-line": "line"}


class Pruner:
    """Prune ``model`` in groups while it trains.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
    >>> pruner = Pruner(model, Groups("4x1", unaligned="rows"), sparsity=0.75)
    >>> pruner
    Pruner(4x1 unaligned rows, budget='global', sparsity 0.750 of 0.750 at step 0 of 0, 1 layer, 576 weights)
    >>> pruner.finalize()
    >>> int((model[2].weight == 0).sum())
    432

    The life cycle:

    1. ``Pruner(...)`` masks the weights of the targeted layers, through ``torch.nn.utils.parametrize``. It is
       step 0: what the schedule says for step 0 happens here, so the default ``OneShot(at=0)`` prunes at
       once. Load weights, and move the model to its device, before. Optimizers may be made before or after.
    2. ``step()`` after every ``optimizer.step()``, with the gradients still there, counts a step and, when the
       schedule says so, chooses the groups to keep anew from the dense weights. ``regrowth`` says how pruned
       weights may come back. After ``schedule.last`` the pattern is frozen.
    3. ``finalize()`` leaves plain parameters with exact zeros.

    Where a layer's rows or columns are not a multiple of an aligned group's, the rest belongs to no group and
    is pruned. Make averages (EMA) and other copies of the model after the pruner, with buffers copied and not
    averaged (the default of ``torch.optim.swa_utils.AveragedModel``), and finalize them with
    `flexgroup.pruning.finalize`.

    Args:
        model: changed in place. Its weights must be finite.
        groups: the groups that are kept or pruned as a whole. They must fit every targeted layer.
        sparsity: the share of the targeted weights that is pruned in the end, in [0, 1), met to half a group.
        budget: over which weights: ``"global"`` (the network), ``"layer"``, or ``"line"`` (balanced). Each
            convolution group of a grouped convolution counts as a layer. ``"erdos-renyi"`` and
            ``"erdos-renyi-line"``: by layer and by line, with shares that are larger in small layers.
        schedule: when, and how far: `OneShot`, `Cubic`, `Constant`, `Iterative`, or your own (`Schedule`).
        criterion: ``"magnitude"`` or ``"squared"``; ``"taylor"``, ``"fisher"``, ``"movement"`` or ``"wanda"``, which
            average over training steps (or `Taylor` and so on, with another decay); a function (weight, gradient or
            None) -> scores, all matrices; or scores by layer name, as `sensitivities` gives them. Gradients are what
            ``backward()`` left in ``.grad``: 0 where a weight is pruned, except with straight-through regrowth.
        targets: glob patterns on layer names. Without: every `nn.Conv2d` and `nn.Linear` but the first
            convolution, depthwise ones, and the last linear layer.
        ignore: glob patterns of layers to leave dense.
        limits, cost, bands: of the budget, by layer name, as `flexgroup.select` takes them: the least and most share
            of a layer that stays, what a group costs in a layer, and the parallel units of ``budget="band"``.
        regrowth: what a pruned weight is until the next choice. ``"memory"``: as it was, under its mask, without a
            gradient. ``"none"``: zero, and only as zero can it come back. ``"straight-through"``: it gets the
            gradient of a weight that is zero, so that it trains unseen; after ``schedule.last`` it is zero.
        shrink: a decay of pruned weights only, added to their gradient as ``shrink * w`` when an optimizer of
            `torch.optim` steps (SR-STE, Zhou et al. 2021, equation 9; they use 0.0002 with straight-through).
        relaxed: in all choices but the last, keep the weights of the best windows although they overlap
            (`flexgroup.groups.select_relaxed`), so that unaligned groups may still move. For schedules with several
            rounds and ``regrowth="none"``; aligned groups have nothing to relax.
        order: of a weight matrix's columns: ``"ic-ky-kx"`` (PyTorch's) or ``"ky-kx-ic"`` (the input channel changes
            fastest). It decides which weights are neighbours along a row.

    Raises:
        FlexgroupError: for all of the above, before anything is changed.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Groups,
        sparsity: float,
        *,
        budget: str = "global",
        schedule: Schedule | None = None,
        criterion: str | Criterion | Mapping[str, Tensor] = "magnitude",
        targets: Sequence[str] | None = None,
        ignore: Sequence[str] | None = None,
        regrowth: str = "memory",
        shrink: float = 0.0,
        limits: Limits | None = None,
        cost: Mapping[str, float] | None = None,
        bands: int = 1,
        relaxed: bool = False,
        order: str = PYTORCH_ORDER,
    ) -> None:
        if not isinstance(groups, Groups):
            raise FlexgroupError(
                f"groups={groups!r} is not a Groups; write for example Groups('4x1', unaligned='rows')"
            )
        known = (*BUDGETS, *BY_SIZE)
        if budget not in known:
            raise FlexgroupError(f"budget={budget!r} is not known; use one of {', '.join(map(repr, known))}")
        if order not in ORDERS:
            raise FlexgroupError(f"order={order!r} of columns is not known; use one of {', '.join(map(repr, ORDERS))}")
        self.model = model
        self.groups = groups
        self.order = order
        self.budget = budget
        self.relaxed = relaxed
        self.schedule: Schedule = OneShot() if schedule is None else schedule
        self.final_sparsity = check_sparsity(sparsity)
        self.schedule.sparsity(0, self.final_sparsity)
        check_regrowth(regrowth, shrink)
        self.regrowth = regrowth
        self.shrink = float(shrink)
        self._criterion = dict(criterion) if isinstance(criterion, Mapping) else find_criterion(criterion)
        self._step = 0
        self._layers = find_layers(model, targets, ignore)
        check_layers(model, self._layers, groups)
        if isinstance(self._criterion, dict):
            check_scores(self._criterion, self._layers)
        check_signed(self._criterion, groups, budget, cost)
        self._options: dict[str, Any] = {
            "limits": self._by_part("limits", limits) if isinstance(limits, Mapping) else limits,
            "cost": None if cost is None else self._by_part("cost", cost),
            "bands": bands,
        }
        for layer in self._layers:
            check_finite(layer.module.weight, layer.name)
        self._averages: Averages | None = None
        chosen = self._choose(0) if self.schedule.chooses(0) else self._keep_all()
        self._masks: dict[str, Mask] = {layer.name: attach(layer.module, chosen[layer.name]) for layer in self._layers}
        self._modules = [layer.module for layer in self._layers]
        if isinstance(self._criterion, Averaged) and self.schedule.last > 0:
            self._averages = Averages(self._criterion, self._layers)
        if shrink:
            self._end_shrinking = weakref.finalize(self, shrink_pruned(self._modules, self.shrink))
        self._remembered = remember(model) if self._rewind == 0 else {}
        self._settle()

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the targeted layers, in the model's order."""
        return tuple(layer.name for layer in self._layers)

    @property
    def masks(self) -> dict[str, Tensor]:
        """The pattern now: by layer name, a bool (M, K) tensor, true where a weight is kept (copies)."""
        return {name: as_matrix(mask.kept).clone() for name, mask in self._masks.items()}

    @property
    def sparsity(self) -> float:
        """The share of the targeted weights that is pruned now."""
        total = sum(mask.kept.numel() for mask in self._masks.values())
        return 1.0 - sum(int(mask.kept.sum()) for mask in self._masks.values()) / total

    @property
    def steps(self) -> int:
        """How many times `step` has been called."""
        return self._step

    @property
    def _rewind(self) -> int | None:
        """The step to whose weights the model goes back after every choice, if the schedule has one."""
        return getattr(self.schedule, "rewind", None)

    @property
    def _finalized(self) -> bool:
        return not is_masked(self._layers[0].module)

    def step(self) -> None:
        """Count a training step, and choose the groups anew where the schedule says so.

        Raises `FlexgroupError`, and counts and changes nothing, if a weight is not finite at a choice.
        """
        self._check_open("step()")
        step = self._step + 1
        if self._averages is not None and step <= self.schedule.last:
            self._averages.add_gradients(step)
        if step == self._rewind:
            self._remembered = remember(self.model)
        if step <= self.schedule.last and self.schedule.chooses(step):
            self._put(self._choose(step))
            if self._remembered:
                restore(self.model, self._remembered)
        self._step = step
        self._settle()

    def finalize(self) -> None:
        """Leave plain parameters with exact zeros where weights are pruned; a second call does nothing.

        The Parameter objects stay the same. The pruner still has ``masks`` and ``sparsity`` but cannot step.
        """
        finalize(self.model)
        self._close()

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs to go on from here: plain values, and tensors on the CPU.

        ``step``: int; ``groups``: str; ``shapes``: by layer name, [M, K]; ``masks``: by layer name, the bits
        of the (M, K) mask, row by row, eight to a byte (uint8, the first in the highest bit); ``averages``: by layer
        name, what the criterion has averaged so far; ``remembered``: by parameter or buffer name, the weights to
        rewind to. The last three save as safetensors, the rest as JSON. The weights, dense originals included, are
        in the model's own ``state_dict``.
        """
        averages = {} if self._averages is None else self._averages.by_layer
        return {
            "step": self._step,
            "groups": str(self.groups),
            **pack(self.masks),
            "averages": {name: whole(value).detach().cpu().clone() for name, value in averages.items()},
            "remembered": {name: value.cpu().clone() for name, value in self._remembered.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where `state_dict` was taken. The model loads its own state, before or after.

        Raises `FlexgroupError`, and changes nothing, if the state is of other layers, shapes, groups or criteria.
        """
        self._check_open("load_state_dict()")
        missing = {"step", "groups", "shapes", "masks"} - set(state)
        if missing:
            raise FlexgroupError(f"this is not the state of a Pruner: it lacks {', '.join(sorted(missing))}")
        if state["groups"] != str(self.groups):
            raise FlexgroupError(f"the state is of groups {state['groups']}, this pruner's are {self.groups}")
        masks = unpack(state, self._layers)
        step, remembered = int(state["step"]), dict(state.get("remembered", {}))
        if remembered:
            check_remembered(self.model, remembered)
        if self._averages is not None:
            self._averages.load(state.get("averages", {}), step)
        self._remembered = remembered
        self._put(masks)
        self._step = step
        self._settle(forget=False)

    def __repr__(self) -> str:
        weights = sum(mask.kept.numel() for mask in self._masks.values())
        count = len(self._layers)
        return (
            f"Pruner({self.groups}, budget={self.budget!r}, "
            f"sparsity {self.sparsity:.3f} of {self.final_sparsity:.3f} "
            f"at step {self._step} of {self.schedule.last}, "
            f"{count} layer{'s' if count > 1 else ''}, {weights} weights"
            f"{', finalized' if self._finalized else ''})"
        )

    def _choose(self, step: int) -> dict[str, Tensor]:
        """Select the groups to keep at ``step``: an (M, K) mask a layer, on the CPU."""
        sparsity = self.schedule.sparsity(step, self.final_sparsity)
        if sparsity == 0.0 and isinstance(self._criterion, Averaged):
            return self._keep_all()
        averages = {} if self._averages is None else self._averages.by_layer
        matrices = layer_scores(self._criterion, self._layers, averages)
        # Groups need not tile a matrix, so even all of them together may leave weights out.
        if sparsity == 0.0:
            return self._keep_all()
        scores: dict[str, npt.NDArray[Any]] = {}
        for layer in self._layers:
            parts = layer.split(matrices[layer.name], self.order)
            scores |= {name: part.numpy() for name, part in parts.items()}
        keep, budget = self._shares(sparsity), BY_SIZE.get(self.budget, self.budget)
        if self.relaxed and step < self.schedule.last:
            chosen = select_relaxed(scores, self.groups, keep, budget)
        else:
            chosen = select(scores, self.groups, keep=keep, budget=budget, **self._options).masks
        kept = {name: torch.from_numpy(mask) for name, mask in chosen.items()}
        masks = from_first_rank({layer.name: layer.join(kept, self.order) for layer in self._layers})
        if step == self.schedule.last:
            _warn_if_emptied(masks)
        return masks

    def _shares(self, sparsity: float) -> float | dict[str, float]:
        """What stays: a share of all weights, or one of each layer's."""
        if self.budget not in BY_SIZE:
            return 1.0 - sparsity
        return self._by_part("budget", erdos_renyi(self._layers, sparsity))

    def _settle(self, forget: bool = True) -> None:
        """Bring the masks' gradients, and the values under them, to what regrowth says for this step."""
        frozen = self._step >= self.schedule.last
        for mask in self._masks.values():
            mask.straight_through = self.regrowth == "straight-through" and not frozen
        if forget and (self.regrowth == "none" or (self.regrowth == "straight-through" and frozen)):
            forget_pruned(self._modules)
        if frozen and self._averages is not None:
            self._averages.close()

    def _close(self) -> None:
        """Take off all that hangs on the model or its optimizers."""
        if self._averages is not None:
            self._averages.close()
        if self.shrink:
            self._end_shrinking()

    def _by_part(self, option: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Values by layer name, as values by the names that selection knows layers by."""
        unknown = set(values) - set(self.layers)
        if unknown:
            raise FlexgroupError(
                f"{option} names {listed(sorted(unknown))}, which {'is' if len(unknown) == 1 else 'are'} not pruned; "
                f"the layers are {listed(self.layers)}"
            )
        return {part: values[layer.name] for layer in self._layers if layer.name in values for part in layer.part_names}

    def _keep_all(self) -> dict[str, Tensor]:
        return {layer.name: torch.ones(layer.shape, dtype=torch.bool) for layer in self._layers}

    def _put(self, masks: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, mask in self._masks.items():
                mask.kept.copy_(masks[name].reshape(mask.kept.shape))

    def _check_open(self, action: str) -> None:
        if self._finalized:
            raise FlexgroupError(f"{action} after finalize(): the weights are plain again; make a new Pruner")


def prune(
    model: nn.Module,
    groups: Groups,
    sparsity: float,
    *,
    budget: str = "global",
    criterion: str | Criterion | Mapping[str, Tensor] = "magnitude",
    targets: Sequence[str] | None = None,
    ignore: Sequence[str] | None = None,
    **options: Any,
) -> None:
    """Prune ``model`` once, in place, without training; see `Pruner` for the arguments, options and errors."""
    pruner = Pruner(
        model, groups, sparsity, budget=budget, criterion=criterion, targets=targets, ignore=ignore, **options
    )
    pruner.finalize()


def _warn_if_emptied(masks: Mapping[str, Tensor]) -> None:
    empty = [name for name, mask in masks.items() if not bool(mask.any())]
    if empty:
        warnings.warn(
            f"no weight is left in {listed(empty)}: their outputs no longer depend on their inputs; "
            f"use a lower sparsity, budget='layer', or ignore",
            stacklevel=4,
        )
