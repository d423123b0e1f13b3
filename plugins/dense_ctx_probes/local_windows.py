"""Local k-nearest neighbours of all cells of a grid at once, for an accelerator: a launch there costs what a tile does.

The same numbers as `local_knn`'s tiles. All tiles have one size and so have their neighbourhoods, whose cells are read
by index: at the border both are moved inwards, so that no cell is made up, and the window is kept by the mask.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from .local_knn_tiles import voters_mean
from .resident import free_memory

_TILE = (8, 12)  # rows and columns of queries, as on the CPU: larger ones compare more cells outside the window
_SHARE = 4  # of the free memory at most a quarter is for similarities


class Windows:
    """Tiles of a grid (h, w), and the cells near them: within `radius` of one of theirs."""

    def __init__(self, height: int, width: int, radius: int, device: torch.device) -> None:
        self.size, self.device = (height, width), device
        if (_TILE[0] + 2 * radius) * (_TILE[1] + 2 * radius) >= height * width:
            tile = (height, width)  # the neighbourhoods would be the whole grid
        else:
            tile = (min(height, _TILE[0]), min(width, _TILE[1]))
        down, right = (_axis(*pair, radius) for pair in zip(self.size, tile, strict=True))
        (rows, near_rows), (columns, near_columns) = down, right

        def cells(ys: Tensor, xs: Tensor) -> Tensor:
            """Indices [tiles, cells] in the flat grid."""
            joined = ys[:, None, :, None] * width + xs[None, :, None, :]
            return joined.reshape(len(ys) * len(xs), -1)

        self.cells, self.near = (pair.to(device) for pair in (cells(rows, columns), cells(near_rows, near_columns)))
        far = [(a[:, :, None] - b[:, None, :]).abs() > radius for a, b in (down, right)]
        outside = far[0][:, None, :, None, :, None] | far[1][None, :, None, :, None, :]
        self.outside = outside.reshape(*self.cells.shape, -1).to(device)  # [tiles, cells, near]
        # where each cell's result is: in the last tile that has it
        owner = torch.empty(height * width, dtype=torch.int64)
        owner[cells(rows, columns).flatten()] = torch.arange(self.cells.numel())
        self.owner = owner.to(device)

    def parts(self, frames: int, channels: int) -> list[slice]:
        """Groups of tiles whose similarities to `frames` frames fit the device's memory."""
        tiles, queries = self.cells.shape
        near = self.near.shape[1]
        free = free_memory(self.device)
        one = 4 * near * (3 * frames * queries + 2 * channels)  # similarities twice, and joined; keys and their copy
        count = min(tiles, max(1, free // _SHARE // one))
        return [slice(start, stop) for start, stop in pairwise([*range(0, tiles, count), tiles])]

    def scores(self, part: slice, query: Tensor, keys: Tensor, blank: Tensor | None) -> Tensor:
        """Cosines of query [h * w, C] and keys [T, h * w, C]: [tiles, cells, T, near]; -inf outside the window."""
        tiles, near = query[self.cells[part]], self.near[part]
        scores = torch.stack([tiles @ frame[near].mT for frame in keys], 2)
        scores.masked_fill_(self.outside[part][:, :, None], -torch.inf)
        if blank is not None:
            scores[:, :, : len(blank)].masked_fill_(blank[:, near].movedim(1, 0)[:, None], -torch.inf)
        return scores

    def propagate(
        self, query: Tensor, keys: Tensor, values: Tensor, blank: Tensor | None, topk: int, temperature: float
    ) -> Tensor | None:
        """Soft labels and the voters' mean cosine, [h, w, K + 1].

        From query [h, w, C], keys [T, h, w, C], values [T, h, w, K], blank [R, h, w].

        None where neighbours tie with the last that votes, which all vote then: the host waits for the device to know.
        """
        query, keys, flat = query.flatten(0, 1), keys.flatten(1, 2), values.flatten(0, 2)
        blank = None if blank is None else blank.flatten(1)
        found, ties = [], []
        for part in self.parts(len(keys), query.shape[-1]):
            scores = self.scores(part, query, keys, blank).flatten(2)
            best, index = scores.topk(min(topk + 1, scores.shape[2]), dim=2)
            if best.shape[2] > topk:
                last = best[:, :, topk - 1]
                ties.append(((best[:, :, topk] == last) & last.isfinite()).any())
                best, index = best[:, :, :topk], index[:, :, :topk]
            weights = (best / temperature).exp()  # exp(-inf) = 0: outside the window
            weights = weights / weights.sum(2, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
            near, count = self.near[part], self.near.shape[1]
            cell = near.gather(1, (index % count).flatten(1)).view_as(index)
            votes = flat[cell + index // count * len(query)]
            votes = torch.einsum("tqk,tqkc->tqc", weights, votes)
            found.append(torch.cat([votes, voters_mean(best)], 2))
        if ties and bool(ties[0] if len(ties) == 1 else torch.stack(ties).any()):
            return None
        labels = (found[0] if len(found) == 1 else torch.cat(found)).flatten(0, 1)[self.owner]
        return labels.view(*self.size, -1)


def _axis(length: int, side: int, radius: int) -> tuple[Tensor, Tensor]:
    """Along one axis: the cells of each tile [tiles, side], and those near it [tiles, n]."""
    starts = [min(start, length - side) for start in range(0, length, side)]
    span = min(length, side + 2 * radius)
    first = [min(max(0, start - radius), length - span) for start in starts]
    return torch.tensor(starts)[:, None] + torch.arange(side), torch.tensor(first)[:, None] + torch.arange(span)
