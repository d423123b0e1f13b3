"""Exact nearest keys of many queries, a block of keys at a time: in float32, or with a first pass in bfloat16."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Metric = Literal["product", "l2"]
BLOCK = 1 << 12  # keys compared at a time: their products with a block of queries stay near the processor
WIDE = 1 << 16  # on an accelerator, where each block is some launches
_GROUP = 64  # of which the best stands for all
_WIDER = 2  # times k: the candidates of a first look
_MANY = 64  # times k: candidates beyond which products in float32 cost less
_FEW = 256  # queries for which writing the keys in bfloat16 costs more than it saves
ROUNDING = 2.0**-8  # of bfloat16, relative
_RESCORED = 128  # queries whose candidates are gathered at a time


def exhaustive(queries: Tensor, keys: Tensor, k: int, metric: Metric, rows: int) -> tuple[Tensor, Tensor]:
    """Scores [Q, k], falling, and indices [Q, k] of the best keys by products in float32.

    Args:
        queries: float32 [Q, C]; keys: [M, C], of any floating type and device; k: at most M.
        metric: see `nearest`.
        rows: queries compared at a time.
    """

    size = BLOCK if queries.device.type == "cpu" else WIDE

    def blocks() -> Iterator[tuple[Tensor, Tensor | None]]:
        for part in keys.split(size):
            part = part.to(queries.device).float()
            yield part, part.square().sum(1) / 2 if metric == "l2" else None

    return _best(queries, blocks(), min(size, len(keys)), k, rows)


def first_look_pays(queries: Tensor, keys: Tensor, k: int, metric: Metric) -> bool:
    """Whether this processor multiplies bfloat16 by instructions of its own, and the search is large enough."""
    if metric != "product" or len(queries) < _FEW or len(keys) < 4 * _WIDER * k:
        return False
    return multiplies_bfloat16(queries.device)


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether it is a processor with instructions for products of bfloat16."""
    abilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.10 does not say
    return device.type == "cpu" and bool(abilities.get("avx512_bf16") or abilities.get("amx_bf16"))


def by_first_look(queries: Tensor, keys: Tensor, k: int, rows: int) -> tuple[Tensor, Tensor]:
    """As `exhaustive` by inner products, and as exact: the best 2k keys in bfloat16, scored again in float32.

    What the first look may have missed is bounded: a product of rounded vectors is off by at most
    |q| |k - k'| + |q - q'| |k'| (Cauchy-Schwarz), and its own rounding keeps the order. Where the k-th score is not
    above the last candidate's by this bound, a second look takes all keys that may be above it. A common part of all
    keys changes no order, and is taken off before rounding, since the bound grows with their length.
    """
    centre = keys[:: max(1, len(keys) // BLOCK)].float().mean(0).to(queries)
    short = queries.bfloat16()
    lengths = torch.zeros(2)  # the largest of the rounded keys, and of what rounding took

    def blocks() -> Iterator[tuple[Tensor, Tensor | None]]:
        for part in keys.split(BLOCK):
            part = part.to(queries.device).float() - centre
            rounded = part.bfloat16()
            part -= rounded
            for place, vectors in enumerate((rounded.float(), part)):
                lengths[place] = torch.maximum(lengths[place], vectors.square().sum(1).max().sqrt())
            yield rounded, None

    looked, candidates = _best(short, blocks(), min(BLOCK, len(keys)), _WIDER * k, rows)
    scores, neighbours = _rescored(queries, keys, candidates, k)
    longest, lost = lengths.tolist()
    length, off = queries.norm(dim=1), (queries - short.float()).norm(dim=1)
    bound = length * lost + off * longest + queries.shape[1] * 2.0**-23 * (length + off) * (longest + lost)
    least = scores[:, -1] - queries @ centre - bound
    least -= ROUNDING * least.abs()
    unproven = (looked[:, -1] >= least).nonzero()[:, 0]
    for part in unproven.split(rows) if len(unproven) else ():
        again = _all_above(short[part], blocks(), least[part])
        if again.shape[1] > _MANY * k:
            scores[part], neighbours[part] = exhaustive(queries[part], keys, k, "product", rows)
        else:
            scores[part], neighbours[part] = _rescored(queries[part], keys, again, k)
    return scores, neighbours


def _rescored(queries: Tensor, keys: Tensor, candidates: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best of each query's candidates [Q, n] (-1: none), by products in float32."""
    scores, neighbours = [], []
    for block, index in zip(queries.split(_RESCORED), candidates.split(_RESCORED), strict=True):
        rows = index.clamp_min(0).to(keys.device).flatten()
        near = keys.index_select(0, rows).to(queries).view(*index.shape, -1)  # a third of the time of keys[index]
        score = torch.einsum("qc,qnc->qn", block, near)
        values, order = score.masked_fill_(index < 0, -float("inf")).topk(k, 1)
        scores.append(values)
        neighbours.append(index.gather(1, order))
    return torch.cat(scores), torch.cat(neighbours)


def _all_above(queries: Tensor, blocks: Iterator[tuple[Tensor, Tensor | None]], least: Tensor) -> Tensor:
    """The keys of each query whose product is at or above its `least` [Q]: indices [Q, n], filled up with -1."""
    pairs, start = [], 0
    below = torch.nextafter(least.to(queries.dtype), queries.new_tensor(-float("inf")))
    for keys, _ in blocks:
        row, column, _ = _hits(queries @ keys.T, below)
        pairs.append((row, column + start))
        start += len(keys)
    row, column = (torch.cat(items) for items in zip(*pairs, strict=True))
    order = row.argsort(stable=True)
    return _padded(row[order], len(queries), (column[order], -1))[0]


def _best(
    queries: Tensor, blocks: Iterator[tuple[Tensor, Tensor | None]], width: int, k: int, rows: int
) -> tuple[Tensor, Tensor]:
    """The k best of all keys, which come in blocks [n <= width, C] with what is taken off their products."""
    parts = list(queries.split(rows))
    best: list[tuple[Tensor, Tensor] | None] = [None] * len(parts)
    # one place for all products: memory asked for anew is cleared page by page, at a third of the products' own cost
    room = queries.new_empty(len(parts[0]) * width)
    start = 0
    for keys, shift in blocks:
        for number, part in enumerate(parts):
            shape = (len(part), len(keys))
            products = torch.mm(part, keys.T, out=room[: shape[0] * shape[1]].view(shape))
            if shift is not None:
                products -= shift
            best[number] = _merged(best[number], products, start, k)
        start += len(keys)
    pairs = [pair for pair in best if pair is not None]
    return torch.cat([scores for scores, _ in pairs]), torch.cat([neighbours for _, neighbours in pairs])


def _merged(before: tuple[Tensor, Tensor] | None, scores: Tensor, start: int, k: int) -> tuple[Tensor, Tensor]:
    """The k best, scores and indices, of those before and of a block of scores [Q, n] of the keys from `start` on."""
    # an accelerator's host would wait to know how many these are
    if before is not None and before[0].shape[1] == k and scores.device.type == "cpu":
        more = _above(scores, before[0][:, -1])
    else:
        more = largest(scores, min(k, scores.shape[1]))
    if more is None:
        return before  # type: ignore[return-value]
    values, neighbours = more[0], more[1] + start
    if before is None:
        return values, neighbours
    values, order = torch.cat([before[0], values], 1).topk(min(k, before[0].shape[1] + values.shape[1]), 1)
    return values, torch.cat([before[1], neighbours], 1).gather(1, order)


def _above(scores: Tensor, least: Tensor) -> tuple[Tensor, Tensor] | None:
    """The scores of each row above its `least` [Q]: values and columns [Q, n], filled up with -inf; None: no score is.

    After some blocks of keys few are: what this costs is one look at each score.
    """
    row, column, values = _hits(scores, least)
    if not len(row):
        return None
    padded, columns = _padded(row, len(scores), (values, -float("inf")), (column, 0))
    return padded, columns


def _hits(scores: Tensor, least: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Row, column and value of each score above its row's `least`, row by row."""
    groups = _grouped(scores)
    row, group = (groups.amax(2) > least[:, None]).nonzero(as_tuple=True)
    values = groups[row, group]
    hit, offset = (values > least[row, None]).nonzero(as_tuple=True)
    return row[hit], group[hit] * _GROUP + offset, values[hit, offset]


def _padded(row: Tensor, rows: int, *items: tuple[Tensor, float]) -> list[Tensor]:
    """Items [N] whose rows are `row`, rising, as tables [rows, most of a row], each filled up with its value."""
    counts = torch.bincount(row, minlength=rows)
    slot = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
    tables = []
    for values, fill in items:
        table = values.new_full((rows, int(counts.max())), fill)
        table[row, slot] = values
        tables.append(table)
    return tables


def _grouped(scores: Tensor) -> Tensor:
    """[Q, n] as [Q, n / 64, 64], filled up with -inf."""
    short = -scores.shape[1] % _GROUP
    if short:
        scores = functional.pad(scores, (0, short), value=-float("inf"))
    return scores.view(len(scores), -1, _GROUP)


def largest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """topk along rows, in two looks: the k largest are in the k groups with the largest maxima."""
    if scores.shape[1] < 4 * _GROUP * k:
        return scores.topk(k, 1)
    groups = _grouped(scores)
    best_groups = groups.amax(2).topk(k, 1).indices
    inside = groups.gather(1, best_groups[:, :, None].expand(-1, -1, _GROUP)).flatten(1)
    values, offset = inside.topk(k, 1)
    return values, best_groups.gather(1, offset // _GROUP) * _GROUP + offset % _GROUP
