"""Positions of queries and feature cells, and their encoding; coordinates are (y, x) from 0 to 1 over the image."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dense_ctx.interfaces import Size

CHANNELS = 16


def cell_centres(grid: Size, device: torch.device | None = None) -> Tensor:
    """Centres of the cells of a grid over the whole image, float32 [h * w, 2], row by row."""
    rows = (torch.arange(grid[0], device=device) + 0.5) / grid[0]
    columns = (torch.arange(grid[1], device=device) + 0.5) / grid[1]
    return torch.cartesian_prod(rows, columns)


def encode(points: Tensor) -> Tensor:
    """Fixed encoding [N, 16] of points [N, 2]: sine and cosine of pi, 2 pi, 4 pi and 8 pi times y and x.

    The paper says 16 dimensions and no parameters, and leaves the functions open. The slowest wave does not repeat
    inside the image, the fastest one has a wavelength of a quarter of it.
    """
    waves = math.pi * 2.0 ** torch.arange(CHANNELS // 4, device=points.device)
    angles = (points[:, :, None] * waves).flatten(1)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def squared_distances(queries: Tensor, cells: Tensor) -> Tensor:
    """[Q, K] squared distances of points [Q, 2] and [K, 2], in units of the image's sides."""
    return (queries[:, None, 0] - cells[None, :, 0]).square() + (queries[:, None, 1] - cells[None, :, 1]).square()
