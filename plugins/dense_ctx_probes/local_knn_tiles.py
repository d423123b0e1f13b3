"""The votes of the nearest cells within a window, for all cells of a frame: tile by tile, and exact.

On processors that multiply bfloat16 by instructions of their own a first look in it finds the candidates, whose cosines
are then computed in float32. The first look's error is bounded; where the bound does not prove that the neighbours are
among the candidates, all cells are looked at in float32 (`retrieval_blocks.by_first_look` is the same idea).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .retrieval_blocks import ROUNDING, largest

_TILE = (8, 12)  # rows and columns of queries of a tile: the fastest of several at a 60 x 107 grid
_WIDER = 3  # times the neighbours: candidates of the first look
_RESCORED = 512  # queries whose candidates are gathered at a time
_FEW = 8  # queries of a tile for which each window by itself costs less than the tile


@dataclass
class Rounded:
    """Keys less their centre in bfloat16, [h, w, T, C]: what all keys have in common changes no order.

    centre: [C]. length, lost: of each of the T frames the largest of the rounded keys, and of what rounding took.
    """

    keys: Tensor
    centre: Tensor
    length: Tensor
    lost: Tensor

    @classmethod
    def empty(cls, keys: Tensor, centre: Tensor) -> Rounded:
        """Room for as many keys as [T, h, w, C]."""
        frames, height, width, channels = keys.shape
        room = keys.new_empty(height, width, frames, channels, dtype=torch.bfloat16)
        return cls(room, centre, *torch.zeros(2, frames))

    def first(self, count: int) -> Rounded:
        """Of the first frames alone."""
        return Rounded(self.keys[:, :, :count], self.centre, self.length[:count], self.lost[:count])

    def put(self, slot: int, frame: Tensor) -> None:
        """Round a frame's keys, [h, w, C]."""
        frame = frame - self.centre
        self.keys[:, :, slot] = short = frame.bfloat16()
        self.length[slot], self.lost[slot] = (x.square().sum(-1).max().sqrt() for x in (short.float(), frame - short))


@dataclass
class Context:
    """The cells that vote: keys [T, h, w, C] of unit length and their values [T, h, w, K].

    blank: [R, h, w], cells of the first R frames that have no vote; None: all have. rounded: of the same keys; None:
    all products are in float32.
    """

    keys: Tensor
    values: Tensor
    blank: Tensor | None
    rounded: Rounded | None


def propagated(query: Tensor, context: Context, radius: int, topk: int, temperature: float) -> Tensor:
    """Soft labels of a frame's keys [h, w, C], from the cells at most `radius` rows and columns away: [h, w, K + 1].

    The last channel is the voters' mean cosine, -inf where nobody votes.
    """
    height, width, _ = query.shape
    result = context.values.new_empty(height * width, context.values.shape[-1] + 1)
    number = torch.arange(height * width, device=query.device).view(height, width)
    query, tiles = query.flatten(0, 1), []
    for left in range(0, width, _TILE[1]):
        own = slice(left, min(left + _TILE[1], width))
        strip = _Strip(context, own, radius)
        for top in range(0, height, _TILE[0]):
            rows = slice(top, min(top + _TILE[0], height))
            tiles.append((number[rows, own].flatten(), _Near(strip, rows)))
    rest = torch.ones(len(query), dtype=torch.bool, device=query.device)
    if context.rounded is not None and min(near.count for _, near in tiles) > 2 * _WIDER * topk:
        rest = _by_first_look(query, tiles, context, topk, temperature, result)
    for cells, near in tiles:
        unproven = cells[rest[cells]]
        if len(unproven) > _FEW:  # parts without texture, where all is equally near
            result[cells] = near.exact(query[cells], topk, temperature)
            continue
        for cell in unproven.tolist():
            y, x = cell // width, cell % width
            window = (slice(None), slice(max(0, y - radius), y + radius + 1), slice(max(0, x - radius), x + radius + 1))
            scores = query[cell] @ context.keys[window].flatten(0, 2).T
            if context.blank is not None:
                blank = context.blank[window].flatten()
                scores[: len(blank)].masked_fill_(blank, -torch.inf)
            result[cell] = _vote(scores[None], context.values[window].flatten(0, 2), topk, temperature)[0]
    return result.view(height, width, -1)


def _by_first_look(
    query: Tensor,
    tiles: list[tuple[Tensor, _Near]],
    context: Context,
    topk: int,
    temperature: float,
    result: Tensor,
) -> Tensor:
    """Write the votes of the cells whose neighbours are proven into `result`; bool [h w], the others.

    The error of a product of rounded vectors is at most |q| |k - k'| + |q - q'| |k'| (Cauchy-Schwarz), and |q| is 1.
    """
    rounded = context.rounded
    short, count = query.bfloat16(), _WIDER * topk
    best, index = query.new_empty(len(query), count + 1), torch.empty(len(query), count + 1, dtype=torch.int64)
    for cells, near in tiles:
        best[cells], index[cells] = near.look(short[cells], count + 1)
    longest, lost = rounded.length.max(), rounded.lost.max()  # type: ignore[union-attr]
    off = (query - short).norm(dim=1)
    shift = query @ rounded.centre + lost + off * longest  # type: ignore[union-attr]
    shift += query.shape[1] * 2.0**-23 * (1 + off) * (longest + lost)
    keys, values = context.keys.flatten(0, 2), context.values.flatten(0, 2)
    rest = torch.ones(len(query), dtype=torch.bool)
    for start in range(0, len(query), _RESCORED):
        part = slice(start, start + _RESCORED)
        near_keys = keys.index_select(0, index[part, :count].flatten()).view(-1, count, keys.shape[1])
        scores = torch.einsum("qc,qnc->qn", query[part], near_keys)
        scores.masked_fill_(best[part, :count].isinf(), -torch.inf)
        least = scores.topk(topk, dim=1).values[:, -1] - shift[part]
        last = best[part, count]
        rest[part] = ~((last < least - ROUNDING * least.abs()) | last.isinf())
        result[part] = _vote(scores, values[index[part, :count]], topk, temperature)
    return rest


class _Strip:
    """The cells near to some columns of queries, copied once: axes [h, w, T, ...], so that rows are one run of memory.

    Args:
        own: the queries' columns. radius: see `propagated`.
    """

    def __init__(self, context: Context, own: slice, radius: int) -> None:
        self.context, self.radius = context, radius
        _, height, width, _ = context.keys.shape
        self.height = height
        self.columns = slice(max(0, own.start - radius), min(width, own.stop + radius))
        self.rounded = None if context.rounded is None else context.rounded.keys[:, self.columns].contiguous()
        device, frames = context.keys.device, len(context.keys)
        far = _distance(own, self.columns, device) > radius
        # [w own, w near, T]: what is added to a score, 0 or -inf
        self.far = torch.zeros(far.shape, device=device).masked_fill_(far, -torch.inf)[:, :, None].repeat(1, 1, frames)
        self.blank: Tensor | None = None
        if context.blank is not None:
            self.blank = torch.zeros(height, self.columns.stop - self.columns.start, frames, device=device)
            self.blank[..., : len(context.blank)].masked_fill_(
                context.blank[:, :, self.columns].permute(1, 2, 0), -torch.inf
            )
        self.room: dict[torch.dtype, Tensor] = {}

    def _part(self, tensor: Tensor) -> Tensor:
        return tensor[:, :, self.columns].movedim(0, 2).contiguous()

    @cached_property
    def keys(self) -> Tensor:
        """In float32; behind a first look seldom needed."""
        return self._part(self.context.keys)

    def new(self, dtype: torch.dtype, *shape: int) -> Tensor:
        """One place for all scores of a type: memory asked for anew is cleared page by page."""
        count = math.prod(shape)
        if dtype not in self.room or self.room[dtype].numel() < count:
            self.room[dtype] = torch.empty(count, dtype=dtype, device=self.context.keys.device)
        return self.room[dtype][:count].view(shape)


class _Near:
    """The N cells near to a tile of Q queries.

    Args:
        own: the queries' rows.
    """

    def __init__(self, strip: _Strip, own: slice) -> None:
        self._strip, self._own = strip, own
        self._rows = slice(max(0, own.start - strip.radius), min(strip.height, own.stop + strip.radius))
        self.count = (self._rows.stop - self._rows.start) * strip.far[0].numel()

    def _inside(self, scores: Tensor) -> Tensor:
        """Scores [Q, N], and -inf for what is outside of a query's window or not annotated."""
        strip, rows, radius = self._strip, self._rows, self._strip.radius
        tile = scores.view(self._own.stop - self._own.start, len(strip.far), rows.stop - rows.start, -1)
        tile += strip.far.flatten(1)[None, :, None]
        if strip.blank is not None:
            tile += strip.blank[rows].flatten(1)
        for place, row in enumerate(range(self._own.start, self._own.stop)):
            tile[place, :, : max(0, row - radius - rows.start)] = -torch.inf
            tile[place, :, row + radius + 1 - rows.start :] = -torch.inf
        return scores

    def exact(self, queries: Tensor, topk: int, temperature: float) -> Tensor:
        """Votes [Q, K + 1] by products in float32."""
        scores = self._strip.new(torch.float32, len(queries), self.count)
        torch.mm(queries, self._strip.keys[self._rows].flatten(0, 2).T, out=scores)
        values = self._strip.context.values.flatten(0, 2)[self._places(torch.arange(self.count, device=queries.device))]
        return _vote(self._inside(scores), values, topk, temperature)

    def look(self, short: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The best products in bfloat16, falling, and the places of their keys among all, both [Q, count]."""
        strip, shape = self._strip, (len(short), self.count)
        products = strip.new(torch.bfloat16, *shape)
        torch.mm(short, strip.rounded[self._rows].flatten(0, 2).T, out=products)  # type: ignore[index]
        best, index = largest(self._inside(strip.new(torch.float32, *shape).copy_(products)), count)
        return best, self._places(index)

    def _places(self, index: Tensor) -> Tensor:
        """Of indices of near cells, those among all cells [T h w]."""
        _, wide, frames = self._strip.far.shape
        _, height, width, _ = self._strip.context.keys.shape
        cell, frame = index // frames, index % frames
        row, column = cell // wide + self._rows.start, cell % wide + self._strip.columns.start
        places: Tensor = (frame * height + row) * width + column
        return places


def _distance(own: slice, span: slice, device: torch.device) -> Tensor:
    one, other = (torch.arange(part.start, part.stop, device=device) for part in (own, span))
    distance: Tensor = (one[:, None] - other[None, :]).abs()
    return distance


def _vote(scores: Tensor, values: Tensor, topk: int, temperature: float) -> Tensor:
    """scores [Q, N], values [N, K] or [Q, N, K] -> [Q, K + 1]: the top k of each row, and all that tie with their last.

    The last column is the mean score of the top k.
    """
    k = min(topk + 1, scores.shape[1])
    best, index = scores.topk(k, dim=1)
    if k > topk and bool(((best[:, topk] == best[:, topk - 1]) & best[:, topk].isfinite()).any()):
        # a tie at the threshold (exact repeats in the picture): keep all of it
        weights = torch.where(scores >= best[:, topk - 1 : topk], (scores / temperature).exp(), 0.0)
        votes = torch.einsum("qn,qnk->qk", weights, values) if values.ndim == 3 else weights @ values
        return torch.cat([votes / weights.sum(1, keepdim=True), voters_mean(best[:, :topk])], 1)
    best, index = best[:, :topk], index[:, :topk]
    weights = (best / temperature).exp()  # exp(-inf) = 0: outside the window
    # the least positive number: where no annotated cell is near, nobody votes and the sum is 0
    weights = weights / weights.sum(1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
    near = values[index] if values.ndim == 2 else values.gather(1, index[:, :, None].expand(-1, -1, values.shape[2]))
    return torch.cat([torch.einsum("qk,qkc->qc", weights, near), voters_mean(best)], 1)


def voters_mean(best: Tensor) -> Tensor:
    """Mean of the finite scores along the last axis, [..., 1]; -inf where nobody votes."""
    count = (best > -torch.inf).sum(-1, keepdim=True)
    # less the least positive number, so that the quotient is -inf where there is no vote
    return (best.nan_to_num(nan=torch.nan, neginf=0.0).sum(-1, keepdim=True) - torch.finfo(best.dtype).tiny) / count
