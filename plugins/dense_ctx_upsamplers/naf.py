"""NAF (Chambon et al., 2511.18452): neighbourhood attention filtering, of the maps of any backbone.

Only the image decides the weights: a pixel attends to the 9 x 9 cells around its own, its query being the image there
and their keys the image averaged over each cell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from dense_ctx_dpt.strips import by_rows
from torch import Tensor
from torch.nn import functional

from dense_ctx.errors import InputError
from dense_ctx.interfaces import Size

from .base import HEADS, LAYER, WIDTH, Upsampler, require_heads
from .blocks import Counts, attend, rows_of
from .encoders import GROUPS, encoder

BASE = 100.0  # of the rotations' periods
FINEST = 4  # pixels of the guidance for each of the output's, along a side; more are averaged away before


class Naf(Upsampler):
    """Attention of every pixel to the cells around its own.

    The published code makes the neighbourhoods with NATTEN, on keys and values repeated for every pixel; here they are
    computed on the cells themselves, and no extension is needed.

    Args:
        dims, strides: the backbone's.
        layer: index of the map to read, negative ones from the end.
        width: channels of queries and keys; half of them must be a multiple of 8.
        heads: of the attention; each weighs its share of the map's channels.
        kernel: cells along each side of a neighbourhood, odd. At the border it is moved inside; a smaller map is read
            whole, which the published code refuses.

    Raises:
        InputError: an argument out of its range.
    """

    file_args: ClassVar[Mapping[str, Any] | None] = {
        "layer": LAYER, "width": WIDTH, "heads": HEADS, "kernel": range(1, 100),
    }  # fmt: skip

    def __init__(
        self,
        dims: Sequence[int],
        strides: Sequence[int],
        layer: int = -1,
        width: int = 256,
        heads: int = 4,
        kernel: int = 9,
    ) -> None:
        super().__init__(dims, layer)
        require_heads(heads, self.dim, "the map")
        if width < 1 or width % (2 * GROUPS) or width % (4 * heads):
            raise InputError(f"width={width}: expected a multiple of {2 * GROUPS} and of {4 * heads} (4 x heads)")
        if kernel < 1 or kernel % 2 == 0:
            raise InputError(f"kernel={kernel}: expected an odd number of cells")
        self.heads, self.kernel = heads, kernel
        self.encoder = encoder(3, width // 2, bias=True, residual=False)
        self.sem_encoder = encoder(3, width // 2, kernel=3, inner=3, bias=True, residual=False)
        quarter = width // heads // 4
        self.periods: Tensor
        self.register_buffer("periods", BASE ** (torch.arange(quarter) / quarter))

    def upsample(self, low: Tensor, guidance: Tensor, size: Size) -> Tensor:
        """Weighted means of the map's cells."""
        grid = (low.shape[-2], low.shape[-1])
        least = FINEST * min(size)
        sides = (guidance.shape[-2], guidance.shape[-1])
        if sides[0] > FINEST * size[0] or sides[1] > FINEST * size[1]:
            small = (min(sides[0], least), min(sides[1], least))
            guidance = functional.interpolate(guidance, size=small, mode="bilinear", align_corners=False)
        pixels = torch.cat([self.encoder(guidance), self.sem_encoder(guidance)], 1)
        query = self._turned(functional.adaptive_avg_pool2d(pixels, size))
        key = functional.adaptive_avg_pool2d(query, grid)
        split = (self.heads, -1)
        tables = [around(a, b, self.kernel) for a, b in zip(size, grid, strict=True)]
        return attend(query.unflatten(1, split), key.unflatten(1, split), low.unflatten(1, split), *tables)

    def _turned(self, x: Tensor) -> Tensor:
        """Rotate pairs of channels by angles of the row and of the column, which lie between -1 and 1."""
        height, width = x.shape[-2:]
        frequencies = (2 * torch.pi / self.periods.float())[:, None, None]
        ys, xs = ((torch.arange(n, device=x.device) + 0.5) * (2 / n) - 1 for n in (height, width))
        quarter = len(frequencies)

        def turned(start: int, stop: int) -> Tensor:
            down = (frequencies * ys[start:stop, None]).expand(quarter, -1, width)
            right = (frequencies * xs).expand(quarter, stop - start, -1)
            angles = torch.cat([down, right])
            cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
            one, two = x[:, :, start:stop].unflatten(1, (self.heads, -1)).chunk(2, 2)
            return torch.cat([one * cos - two * sin, two * cos + one * sin], 2).flatten(1, 2)

        return by_rows(turned, height, rows_of(x[:, :, 0].numel()))


def around(length: int, cells: int, kernel: int) -> Counts:
    """[length, cells]: how often a position's neighbourhood has a cell.

    Neighbours are a cell's width apart (rounded down to whole positions), and the neighbourhood is moved inside where
    it would reach over the border. A cell counts twice where two neighbours fall into it, which happens where the
    length is no multiple of the cells.
    """
    apart = max(1, length // cells)
    position = np.arange(length)
    place, first = position // apart, position % apart
    places = -(-(length - first) // apart)  # in this position's row of neighbours
    reach = np.minimum(kernel, places)
    start = np.clip(place - kernel // 2, 0, places - reach)
    counts = np.zeros((length, cells), np.float32)
    # the cell of a position: the nearest one's, as torch's "nearest-exact" has it
    cell = ((position + 0.5) * np.float32(cells / length)).astype(np.float32).astype(int).clip(max=cells - 1)
    for step in range(kernel):
        here = step < reach
        neighbour = first + (start + step) * apart
        np.add.at(counts, (position[here], cell[neighbour[here]]), 1)
    return counts
