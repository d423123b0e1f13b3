"""Attention of pixels to a coarse grid, a block of rows at a time.

`LIMIT` bounds the numbers that one block holds beside its result; the result does not depend on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from dense_ctx_dpt.strips import by_rows
from torch import Tensor

LIMIT = 1 << 22  # 16 MB in float32; softmax and products hold a few times as much

# how often each of a side's positions (rows of the table) reads each cell of the coarse grid's side (its columns)
Counts = np.ndarray[Any, np.dtype[np.float32]]


def rows_of(numbers: int) -> int:
    """Rows of a block where one takes so many numbers."""
    return max(1, LIMIT // numbers)


def attend(
    query: Tensor, key: Tensor, value: Tensor, rows: Counts | None = None, columns: Counts | None = None
) -> Tensor:
    """Softmax attention of each pixel to the cells of a coarse grid.

    Args:
        query: [B, N, d, H, W]. key: [B, N, d, h, w]. N heads, whose products are divided by the square root of d.
        value: [B, N, e, h, w]; or [B, 1, e, h, w], to which the heads' mean weights are applied.
        rows, columns: [H, h] and [W, w], both or neither. A cell counts as often as the product for its row and its
            column says, 0 where it is not read. None: each cell once, by every pixel.

    Returns:
        [B, N * e, H, W], or [B, e, H, W] for the mean weights.
    """
    heads, depth, height, width = query.shape[1:]
    grid = (key.shape[-2], key.shape[-1])
    scale, mean = depth**-0.5, value.shape[1] < heads
    down, seen_rows = _tile(rows, height, grid[0])
    across, seen_columns = _tile(columns, width, grid[1])
    pixel = query.shape[0] * heads * seen_rows * seen_columns  # weights of one
    across = min(across, rows_of(pixel))
    down = min(down, rows_of(pixel * across))

    def tile(top: int, bottom: int, left: int, right: int) -> Tensor:
        y, x = _read(rows, top, bottom, grid[0]), _read(columns, left, right, grid[1])
        part = query[..., top:bottom, left:right].flatten(3).mT * scale
        logits = part @ key[..., y, x].flatten(3)
        if rows is not None and columns is not None:
            counts = np.einsum("ah,bw->abhw", rows[top:bottom, y], columns[left:right, x])
            with np.errstate(divide="ignore"):
                often = torch.from_numpy(np.log(counts)).flatten(2).flatten(0, 1)
            logits = logits + often.to(logits)
        weights = logits.float().softmax(-1)
        if mean:
            weights = weights.mean(1, keepdim=True)
        out: Tensor = (weights.to(value.dtype) @ value[..., y, x].flatten(3).mT).mT
        return out.flatten(1, 2).reshape(len(out), -1, bottom - top, right - left)

    def strip(top: int, bottom: int) -> Tensor:
        return torch.cat([tile(top, bottom, *span) for span in _spans(width, across)], -1)

    return by_rows(strip, height, down)


def _tile(counts: Counts | None, length: int, cells: int) -> tuple[int, int]:
    """Positions of a tile along a side, and the cells that they read; a few cells wide where only near ones are."""
    if counts is None:
        return length, cells
    reach = int((counts > 0).sum(1).max())
    return max(1, 4 * length // cells), min(cells, reach + 5)


def _spans(length: int, size: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + size, length)) for start in range(0, length, size))


def _read(counts: Counts | None, start: int, stop: int, cells: int) -> slice:
    """The cells that a run of positions reads, as one range."""
    if counts is None:
        return slice(0, cells)
    read = np.flatnonzero(counts[start:stop].any(0))
    return slice(int(read[0]), int(read[-1]) + 1)
