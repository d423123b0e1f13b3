"""The grid that masks are tracked on: its size, its cells in tiles, and what lies near each tile."""

from __future__ import annotations

import numpy as np

from .geometry import Array, Size

TILE = (8, 12)  # rows and columns of cells; larger ones compare more cells outside the window


def grid_of(size: Size, stride: int) -> Size:
    """Cells of an image of `size`, one for `stride` pixels a side, at least one."""
    return max(1, round(size[0] / stride)), max(1, round(size[1] / stride))


def cuts(size: Size, full: Size, stride: int) -> dict[str, Array]:
    """Matrices that cut the padding off the decoded grid, float32: rows_cut [h, p] and columns_cut [w, q].

    The padded image, of size `full`, has (p, q) cells at the scale at which its part of `size` has (h, w).
    """
    matrices = {}
    for name, cells, side, whole in zip(("rows_cut", "columns_cut"), grid_of(size, stride), size, full, strict=True):
        matrices[name] = np.eye(cells, max(cells, round(cells * whole / side)), dtype=np.float32)
    return matrices


def tiles(grid: Size, radius: int) -> dict[str, Array]:
    """A grid in tiles of one size, as int64 places row * width + column.

    Args:
        radius: of the window, in cells; 0: the whole grid.

    At the border a tile and what is near it are moved inwards, so that all have one size and no cell is made up.

    Returns:
        cells: of each tile, [tiles, q]. near: all cells at most `radius` rows and columns from one of the tile's, and
        others that a rectangle holds, [tiles, m]. owner: of each cell of the grid, its place among `cells`, [h * w].
    """
    height, width = grid
    radius, tile = radius or max(grid), TILE
    if (TILE[0] + 2 * radius) * (TILE[1] + 2 * radius) >= height * width:
        tile = (height, width)  # the neighbourhoods would be the whole grid
    (rows, near_rows), (columns, near_columns) = (
        _axis(length, min(length, side), radius) for length, side in zip((height, width), tile, strict=True)
    )
    cells, near = (
        (ys[:, None, :, None] * width + xs[None, :, None, :]).reshape(len(ys) * len(xs), -1)
        for ys, xs in ((rows, columns), (near_rows, near_columns))
    )
    owner = np.empty(height * width, dtype=np.int64)
    owner[cells.ravel()] = np.arange(cells.size)  # of a cell in two tiles, the last one
    return {"cells": cells, "near": near, "owner": owner}


def _axis(length: int, side: int, radius: int) -> tuple[Array, Array]:
    """Along one axis: the cells of each tile [tiles, side], and those near it [tiles, n]."""
    starts = np.minimum(np.arange(0, length, side), length - side)
    span = min(length, side + 2 * radius)
    first = (starts - radius).clip(0, length - span)
    return starts[:, None] + np.arange(side), first[:, None] + np.arange(span)
