"""Least squares for many rows that each may use some of the columns: normal equations, and one factorisation a set."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from flexgroup._errors import FlexgroupError

ENTRIES = 1 << 24  # of the factors that are in memory at a time


@dataclass
class Equations:
    """``X^T X`` (K, K), ``X^T Y`` (K, M) and the sum of squares of ``Y`` over all X (S, K) and Y (S, M), in float64."""

    gram: Tensor
    products: Tensor
    squares: Tensor

    @classmethod
    def empty(cls, columns: int, rows: int, device: torch.device) -> Equations:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        return cls(zeros(columns, columns), zeros(columns, rows), zeros())

    def add(self, x: Tensor, y: Tensor) -> None:
        x, y = (part if part.dtype == torch.float64 else part.float() for part in (x, y))
        self.gram += x.T @ x
        self.products += x.T @ y
        self.squares += y.double().square().sum()

    def error(self, weight: Tensor) -> float:
        """The sum of squares of ``Y - X weight^T`` for a (M, K) weight."""
        fitted = ((weight @ self.gram) * weight).sum() - 2 * (weight * self.products.T).sum()
        return max(0.0, float(self.squares + fitted))

    def check(self, layer: str) -> None:
        if not bool(torch.isfinite(self.gram).all() & torch.isfinite(self.products).all()):
            raise FlexgroupError(
                f"layer {layer!r}: its inputs or outputs are NaN or infinite on these images, so it cannot be "
                f"refitted; it was left as it is"
            )


def solve(equations: Equations, old: Tensor, kept: Tensor, ridge: float) -> Tensor:
    """The (M, K) weight, zero where not ``kept``, that minimises the error plus ``ridge * d * |weight - old|^2``.

    ``d`` is the mean of the diagonal of ``X^T X``; ``old`` (M, K) is zero where not kept. Rows with the same columns
    share a factorisation; sets of columns of similar size are factorised together, padded with equations ``0 = 0``.
    """
    sets, owner = torch.unique(kept.byte(), dim=0, return_inverse=True)
    sizes, order = sets.sum(1).sort()
    members = torch.bincount(owner, minlength=len(sets))
    residual = equations.products.T - old @ equations.gram
    columns = kept.shape[1]
    pull = ridge * equations.gram.diagonal().mean().clamp_min(torch.finfo(torch.float64).tiny)
    gram = torch.nn.functional.pad(equations.gram, (0, 1, 0, 1))
    residual = torch.nn.functional.pad(residual, (0, 1, 0, 1))  # a column of padding, and a row of it
    new = old.clone()
    start = int((sizes == 0).sum())
    while start < len(order):
        size = int(sizes[start])
        # Not much larger sets than the first: padding costs its cube.
        reach = int(torch.searchsorted(sizes, size + size // 4, right=True))
        stop = min(reach, start + max(1, ENTRIES // (int(sizes[reach - 1]) ** 2)))
        batch, size = order[start:stop], int(sizes[stop - 1])
        index = _padded([sets[entry].nonzero()[:, 0] for entry in batch], size, columns)
        rows = _padded([(owner == entry).nonzero()[:, 0] for entry in batch], int(members[batch].max()), len(kept))
        system = gram[index[:, :, None], index[:, None, :]]
        diagonal = torch.where(index < columns, pull, 1.0)
        factor = torch.linalg.cholesky(system + torch.diag_embed(diagonal))
        right = residual[rows[:, None, :], index[:, :, None]]
        change = torch.cholesky_solve(right, factor)
        spot = (rows[:, None, :] < len(kept)) & (index[:, :, None] < columns)
        where = rows[:, None, :].expand_as(spot)[spot], index[:, :, None].expand_as(spot)[spot]
        new[where] += change[spot]
        start = stop
    return new


def _padded(indices: list[Tensor], size: int, filler: int) -> Tensor:
    return torch.stack([torch.nn.functional.pad(entry, (0, size - len(entry)), value=filler) for entry in indices])
