"""The best thresholds of the vectors of several graphs at once."""

from __future__ import annotations

import torch
from torch import Tensor

from .ncut import THRESHOLDS


def thresholds(weights: Tensor, degree: Tensor, vectors: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """The best threshold of each graph: values [G] and upper sides [G, n]; padding has weight 0."""
    low = 0.99 * vectors.masked_fill(~real, float("inf")).amin(1, keepdim=True).double()
    high = 0.99 * vectors.masked_fill(~real, -float("inf")).amax(1, keepdim=True).double()
    steps = torch.arange(THRESHOLDS, dtype=torch.float64, device=weights.device)
    levels = low + (high - low) / (THRESHOLDS - 1) * steps
    rank = torch.searchsorted(levels, vectors.double())
    graphs, size = rank.shape
    bins = THRESHOLDS + 1
    half = weights.new_zeros(graphs, bins, size).scatter_add_(1, rank[:, :, None].expand(-1, -1, size), weights)
    block = half.new_zeros(graphs, bins, bins, dtype=torch.float64)
    block.scatter_add_(2, rank[:, None].expand(-1, bins, -1), half.double())
    crossing = block.cumsum(1).flip(2).cumsum(2).flip(2).diagonal(1, 1, 2)
    mass = torch.zeros(graphs, bins, dtype=torch.float64, device=weights.device).scatter_add_(1, rank, degree.double())
    under, total = mass.cumsum(1)[:, :-1], mass.sum(1, keepdim=True)
    values = crossing / under + crossing / (total - under)
    best = values.nan_to_num(float("inf"), posinf=float("inf")).min(1)
    return best.values, (rank > best.indices[:, None]) & real
