"""Sample a lattice of pixels at fractional coordinates: linear along each axis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

Coordinates: TypeAlias = "np.ndarray[Any, np.dtype[np.float64]]"


@dataclass(frozen=True)
class Axis:
    """For each coordinate along one axis: the pixels before and after it, counted from `start`, and the share of the
    second.

    start, stop: the pixels that are needed. plain: every pixel of them once and in order, nothing between.
    between: some coordinates lie between two pixels.
    """

    start: int
    stop: int
    before: Tensor
    after: Tensor
    share: Tensor
    plain: bool
    between: bool


def pixel_centres(side: int) -> Coordinates:
    """Coordinates, 0 to 1, of the centres of `side` pixels, float64."""
    return (np.arange(side, dtype=np.float64) + 0.5) / side


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def pixel_axis(count: int, start: int, stop: int, side: int, density: int) -> Axis:
    """`axis` of the pixels from `start` to before `stop`, of `count`; of a compiled graph, a constant."""
    return axis(pixel_centres(count)[start:stop], side, density)


def axis(coordinates: Coordinates, side: int, density: int) -> Axis:
    """Where coordinates [N] from 0 to 1 lie among the pixels of `density` lattices of `side` pixels each.

    Pixel n of the lattice that is shifted by j / density of a pixel is number n * density + j. Before the first and
    after the last pixel that pixel's value holds. In NumPy: which pixels are needed is known while a graph is traced.
    """
    last = (side - 1) * density  # the shifted lattices' last pixels lie beyond the trained ones
    position = ((coordinates * side - 0.5) * density).clip(0, last)
    near = position.round()
    position = np.where(np.abs(position - near) < 1e-6, near, position)  # rounding of the division is no distance
    before = np.floor(position).astype(np.int64)
    share = position - before
    after = np.where(share > 0, before + 1, before)
    start, stop = int(before.min()), int(after.max()) + 1
    between = bool(share.any())
    plain = not between and np.array_equal(before, np.arange(start, stop))
    first, second, shares = (torch.from_numpy(item) for item in (before - start, after - start, share))
    return Axis(start, stop, first, second, shares, plain, between)


def sample_grid(field: Tensor, rows: Axis, columns: Axis) -> Tensor:
    """[B, C, r, c] at every pair of coordinates: [B, C, N, M]."""
    return _along(_along(field, rows, -2), columns, -1)


def _along(field: Tensor, positions: Axis, dim: int) -> Tensor:
    if positions.plain:
        return field
    first = field.index_select(dim, positions.before.to(field.device))
    if not positions.between:
        return first
    share = positions.share.to(field)
    share = share[:, None] if dim == -2 else share
    return torch.lerp(first, field.index_select(dim, positions.after.to(field.device)), share)


def sample_points(field: Tensor, rows: Axis, columns: Axis) -> Tensor:
    """[B, C, r, c] at N points: [B, C, N]."""
    down, right = rows.share.to(field), columns.share.to(field)
    corners = [
        torch.lerp(field[:, :, row, columns.before], field[:, :, row, columns.after], right)
        for row in (rows.before, rows.after)
    ]
    return torch.lerp(corners[0], corners[1], down)
