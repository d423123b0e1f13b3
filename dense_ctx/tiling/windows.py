"""Windows over an image: their positions, and the weights that join their results.

Windows start at multiples of the backbone's stride, so that their patch grids coincide with the whole image's. Weights
are separable and sum to one by construction, without a buffer of sums.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ..interfaces import Size


@dataclass(frozen=True)
class Axis:
    """Windows along one side of an image of `length` pixels."""

    length: int
    window: int
    overlap: int
    starts: tuple[int, ...]
    blend: bool = True  # False: neighbours meet in the middle of their overlap

    @classmethod
    def plan(cls, length: int, window: int, overlap: int, stride: int, blend: bool = True) -> Axis:
        """The fewest windows that cover `length` with at least `overlap` between neighbours, evenly spread."""
        padded = -(-length // stride) * stride
        if window >= padded:
            return cls(length, padded, overlap, (0,), blend)
        count = -(-(padded - overlap) // (window - overlap))
        last = padded - window
        starts = {round(index * last / (count - 1) / stride) * stride for index in range(count)}
        return cls(length, window, overlap, tuple(sorted(starts)), blend)

    def spans(self, cells: int) -> Iterator[tuple[slice, slice, Tensor]]:
        """For each window: its pixels, its cells on a grid of `cells` over the length, and their weights."""
        edges = [(start, min(start + self.window, self.length)) for start in self.starts]
        spans = [(round(a * cells / self.length), round(b * cells / self.length)) for a, b in edges]
        centres = (torch.arange(cells, dtype=torch.float64) + 0.5) * self.length / cells
        raw = []
        for (a, b), (first, last), (_, own) in zip(edges, spans, self.shares(), strict=True):
            weight = ((centres >= own.start) & (centres < own.stop)).double()
            if self.blend:
                weight = torch.ones(cells, dtype=torch.float64)
                if a > 0:
                    weight = weight.minimum((centres - a) / self.overlap)
                if b < self.length:
                    weight = weight.minimum((b - centres) / self.overlap)
                weight = weight.clamp_min(1e-6)
            weight[:first] = weight[last:] = 0
            raw.append(weight)
        total = torch.stack(raw).sum(0)
        for (a, b), (first, last), weight in zip(edges, spans, raw, strict=True):
            if last > first:
                yield slice(a, b), slice(first, last), (weight / total)[first:last].float()

    def shares(self) -> Iterator[tuple[slice, slice]]:
        """For each window: its pixels, and those it owns: neighbours meet in the middle of their overlap."""
        edges = [(start, min(start + self.window, self.length)) for start in self.starts]
        inner = [(left[1] + right[0]) // 2 for left, right in pairwise(edges)]
        for (a, b), first, last in zip(edges, [0, *inner], [*inner, self.length], strict=True):
            yield slice(a, b), slice(first, last)


@dataclass(frozen=True)
class Plan:
    """Windows over an image."""

    rows: Axis
    columns: Axis

    def __len__(self) -> int:
        return len(self.rows.starts) * len(self.columns.starts)

    def shares(self) -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice]]]:
        """For each window: its pixels, and those that no other window owns."""
        for rows, own_rows in self.rows.shares():
            for columns, own_columns in self.columns.shares():
                yield (rows, columns), (own_rows, own_columns)

    def tiles(self, grid: Size) -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice], Tensor]]:
        """For each window: its pixels, its cells on an output grid, and the weights [h, w] of those cells."""
        for pixel_rows, rows, down in self.rows.spans(grid[0]):
            for pixel_columns, columns, across in self.columns.spans(grid[1]):
                yield (pixel_rows, pixel_columns), (rows, columns), down[:, None] * across[None, :]
