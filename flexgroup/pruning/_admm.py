"""Pruning by ADMM: while the network trains, its weights are pulled towards the nearest ones that are whole groups."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn

from flexgroup._errors import FlexgroupError
from flexgroup.groups import Groups, select
from flexgroup.pruning._distributed import from_first_rank, whole
from flexgroup.pruning._mask import dense_original
from flexgroup.pruning._pruner import Pruner
from flexgroup.pruning._regrowth import add_to_gradients, like
from flexgroup.pruning._schedules import OneShot
from flexgroup.pruning._targets import as_matrix

BUDGETS = ("global", "layer", "line")


class ADMM(Pruner):
    """A `Pruner` that prunes once, at step ``end``, and until then pulls weights towards groups.

    The alternating direction method of multipliers of Zhang et al., "A systematic DNN weight pruning framework using
    alternating direction method of multipliers" (2018, arXiv 1804.03294). With W the weights, Z weights in groups and U
    the sum of what they missed each other by: every optimizer step has ``rho * (W - Z + U)`` added to its gradient (any
    optimizer of `torch.optim`), and every ``every`` steps Z becomes the nearest weights to W + U that are whole groups
    at the final sparsity, found by exact selection on squares, and ``W - Z`` is added to U.

    Args:
        model, groups, sparsity: as for `Pruner`.
        end: the step of pruning; train on afterwards.
        every: steps between two choices of Z, such as those of an epoch.
        rho: the strength of the pull, in units of the gradient over the weight.
        budget: ``"global"``, ``"layer"`` or ``"line"``.
        options: further arguments of `Pruner`, but for the schedule. The final choice is by ``criterion``, unless
            given ``"squared"``.

    Raises:
        FlexgroupError: as `Pruner`, and for numbers that are no steps or no strength.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Groups,
        sparsity: float,
        *,
        end: int,
        every: int,
        rho: float = 1e-3,
        budget: str = "global",
        **options: Any,
    ) -> None:
        if isinstance(rho, bool) or not isinstance(rho, (int, float)) or not 0 < rho < float("inf"):
            raise FlexgroupError(f"ADMM(rho={rho!r}): rho is a number above 0, such as 0.001")
        if not isinstance(every, int) or not isinstance(end, int) or not 1 <= every <= end:
            raise FlexgroupError(f"ADMM(end={end!r}, every={every!r}): both are steps, and 1 <= every <= end")
        if budget not in BUDGETS:
            raise FlexgroupError(f"budget={budget!r} is not known here; use one of {', '.join(map(repr, BUDGETS))}")
        if "schedule" in options:
            raise FlexgroupError("ADMM takes no schedule: it prunes once, at step end")
        super().__init__(
            model, groups, sparsity, budget=budget, schedule=OneShot(at=end), **{"criterion": "squared", **options}
        )
        self.every = every
        self.rho = float(rho)
        self._duals = {layer.name: torch.zeros_like(whole(dense_original(layer.module))) for layer in self._layers}
        self._goals: dict[str, Tensor] = {}
        self._project()
        names = {id(layer.module): layer.name for layer in self._layers}
        me = weakref.ref(self)

        def pull(ours: Sequence[nn.Module]) -> Sequence[Tensor]:
            pruner = me()
            return [torch.zeros(()) for _ in ours] if pruner is None else pruner._pull(ours, names)

        self._end_pulling = weakref.finalize(self, add_to_gradients(self._modules, pull, self.rho))

    @property
    def distance(self) -> float:
        """How far the weights are from whole groups: the norm of those outside Z's groups over that of all."""
        off = total = 0.0
        for layer in self._layers:
            weight = whole(dense_original(layer.module)).detach()
            off += float(weight[self._goals[layer.name] == 0].square().sum())
            total += float(weight.square().sum())
        return (off / total) ** 0.5 if total else 0.0

    def step(self) -> None:
        """Count a training step; choose Z anew, or prune, where it is time."""
        super().step()
        if self.steps >= self.schedule.last:
            self._end_pulling()
        elif self.steps % self.every == 0:
            self._project()
            for layer in self._layers:
                self._duals[layer.name] += whole(dense_original(layer.module)).detach() - self._goals[layer.name]

    def finalize(self) -> None:
        super().finalize()
        self._end_pulling()

    def state_dict(self) -> dict[str, Any]:
        """The state of a `Pruner`, and ``goals`` and ``duals``: Z and U by layer name."""
        return {
            **super().state_dict(),
            "goals": {name: value.cpu().clone() for name, value in self._goals.items()},
            "duals": {name: value.cpu().clone() for name, value in self._duals.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where `state_dict` was taken; see `Pruner.load_state_dict`."""
        for kind in ("goals", "duals"):
            shapes = {name: value.shape for name, value in state.get(kind, {}).items()}
            if shapes != {name: value.shape for name, value in self._goals.items()}:
                raise FlexgroupError(f"this is not the state of this ADMM: its {kind} are missing or of other layers")
        super().load_state_dict(state)
        self._goals = {name: state["goals"][name].to(value.device) for name, value in self._goals.items()}
        self._duals = {name: state["duals"][name].to(value.device) for name, value in self._duals.items()}
        if self.steps >= self.schedule.last:
            self._end_pulling()

    @torch.no_grad()
    def _project(self) -> None:
        """Z: W + U where the groups with the largest sums of squares lie, else 0."""
        sums = {layer.name: whole(dense_original(layer.module)) + self._duals[layer.name] for layer in self._layers}
        scores: dict[str, npt.NDArray[Any]] = {}
        for layer in self._layers:
            squares = as_matrix(sums[layer.name]).double().square().cpu()
            scores |= {name: part.numpy() for name, part in layer.split(squares, self.order).items()}
        options = self._options
        chosen = select(scores, self.groups, keep=1.0 - self.final_sparsity, budget=self.budget, **options).masks
        kept = {name: torch.from_numpy(mask) for name, mask in chosen.items()}
        masks = from_first_rank({layer.name: layer.join(kept, self.order) for layer in self._layers})
        for name, value in sums.items():
            self._goals[name] = torch.where(masks[name].to(value.device).reshape(value.shape), value, 0.0)

    def _pull(self, modules: Sequence[nn.Module], names: Mapping[int, str]) -> list[Tensor]:
        originals = [dense_original(module) for module in modules]
        layers = [names[id(module)] for module in modules]
        offsets = torch._foreach_sub([self._duals[name] for name in layers], [self._goals[name] for name in layers])
        sharded = [like(offset, original) for offset, original in zip(offsets, originals, strict=True)]
        return list(torch._foreach_add(originals, sharded))
