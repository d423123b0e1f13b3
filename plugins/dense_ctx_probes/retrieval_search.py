"""Nearest keys: exact, in blocks, by torch or faiss; or approximate, by a faiss index whose recall is measured."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from dense_ctx.errors import InputError, MissingDependencyError

Engine = Literal["torch", "faiss", "ivf", "ivfpq"]
Metric = Literal["product", "l2"]
_COLUMNS = 1 << 12  # keys compared at a time: their products with a block of queries stay near the processor
_GROUP = 64  # of which the best stands for all in the first look
_PER_CELL = 64  # training rows of an inverted list
_PROBED = 32  # inverted lists searched


def nearest(
    queries: Tensor, keys: Tensor, k: int, engine: Engine = "torch", rows: int = 1024, metric: Metric = "product"
) -> tuple[Tensor, Tensor]:
    """The k nearest keys of each query, exactly: scores [Q, k], falling, and indices [Q, k].

    Args:
        queries: [Q, C]; keys: [M, C], of any floating type; products are made in float32.
        k: all M where there are fewer.
        engine: "torch" (on the queries' device, a block of keys at a time) or "faiss".
        rows: queries compared at a time.
        metric: "product": scores are inner products q.k; "l2": q.k - |k|^2 / 2, largest where |q - k| is smallest.

    Raises:
        MissingDependencyError: engine="faiss" without it.
    """
    k = min(k, len(keys))
    if engine == "faiss":
        faiss = _faiss()
        index = faiss.IndexFlatIP(keys.shape[1]) if metric == "product" else faiss.IndexFlatL2(keys.shape[1])
        for part in keys.split(_COLUMNS):
            index.add(part.float().cpu().numpy())
        scores, neighbours = (torch.from_numpy(item) for item in index.search(queries.float().cpu().numpy(), k))
        if metric == "l2":
            scores = (queries.float().cpu().square().sum(1, keepdim=True) - scores) / 2
        return scores.to(queries.device), neighbours.to(queries.device)
    blocks = list(queries.detach().float().split(rows))
    best: list[tuple[Tensor, Tensor] | None] = [None] * len(blocks)
    # one place for all products: memory asked for anew is cleared page by page, at a third of the products' own cost
    room = blocks[0].new_empty(len(blocks[0]) * min(_COLUMNS, len(keys)))
    # keys outside: each of their blocks is converted and moved once
    for start in range(0, len(keys), _COLUMNS):
        part = keys[start : start + _COLUMNS].to(queries.device).float()
        shift = part.square().sum(1) / 2 if metric == "l2" else None
        for number, block in enumerate(blocks):
            shape = (len(block), len(part))
            products = torch.mm(block, part.T, out=room[: shape[0] * shape[1]].view(shape))
            if shift is not None:
                products -= shift
            best[number] = _merged(best[number], products, start, k)
    pairs = [pair for pair in best if pair is not None]
    return torch.cat([scores for scores, _ in pairs]), torch.cat([neighbours for _, neighbours in pairs])


def _merged(before: tuple[Tensor, Tensor] | None, scores: Tensor, start: int, k: int) -> tuple[Tensor, Tensor]:
    """The k best, scores and indices, of those before and of a block of scores [Q, n] of the keys from `start` on."""
    if before is not None and before[0].shape[1] == k:
        more = _above(scores, before[0][:, -1])
    else:
        more = _top(scores, min(k, scores.shape[1]))
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
    groups = _grouped(scores)
    row, group = (groups.amax(2) > least[:, None]).nonzero(as_tuple=True)
    values = groups[row, group]
    hit, offset = (values > least[row, None]).nonzero(as_tuple=True)
    if not len(hit):
        return None
    row, column, values = row[hit], group[hit] * _GROUP + offset, values[hit, offset]
    counts = torch.bincount(row, minlength=len(scores))
    slot = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
    padded = scores.new_full((len(scores), int(counts.max())), -float("inf"))
    columns = torch.zeros_like(padded, dtype=torch.int64)
    padded[row, slot], columns[row, slot] = values, column
    return padded, columns


def _grouped(scores: Tensor) -> Tensor:
    """[Q, n] as [Q, n / 64, 64], filled up with -inf."""
    short = -scores.shape[1] % _GROUP
    if short:
        scores = functional.pad(scores, (0, short), value=-float("inf"))
    return scores.view(len(scores), -1, _GROUP)


def _top(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """topk along rows, in two looks: the k largest are in the k groups with the largest maxima."""
    if scores.shape[1] < 4 * _GROUP * k:
        return scores.topk(k, 1)
    groups = _grouped(scores)
    best_groups = groups.amax(2).topk(k, 1).indices
    inside = groups.gather(1, best_groups[:, :, None].expand(-1, -1, _GROUP)).flatten(1)
    values, offset = inside.topk(k, 1)
    return values, best_groups.gather(1, offset // _GROUP) * _GROUP + offset % _GROUP


class ApproximateIndex:
    """An inverted file of faiss over keys [M, C]: "ivf" keeps them in float16, "ivfpq" as codes of C / 4 bytes or less.

    Args:
        keys: of any floating type; trained on a sample, added in blocks.
        kind: "ivf" or "ivfpq".
        metric: as in `nearest`.
        seed: of the training sample.

    Raises:
        MissingDependencyError: faiss is not installed.
        InputError: fewer keys than an index can be trained on.
    """

    def __init__(self, keys: Tensor, kind: Engine, metric: Metric = "product", seed: int = 0) -> None:
        faiss = _faiss()
        count, dim = keys.shape
        lists = max(1, min(int(4 * count**0.5), count // _PER_CELL))
        if count < 4096:
            raise InputError(f"engine={kind} wants from 4096 rows of memory; there are {count}: take engine=torch")
        codes = next(number for number in range(max(1, dim // 4), 0, -1) if dim % number == 0)
        name = f"IVF{lists},{f'PQ{codes}' if kind == 'ivfpq' else 'SQfp16'}"
        measure = faiss.METRIC_INNER_PRODUCT if metric == "product" else faiss.METRIC_L2
        self.kind, self.metric, self.index = kind, metric, faiss.index_factory(dim, name, measure)
        sample = torch.randperm(count, generator=torch.Generator().manual_seed(seed))[: max(4096, _PER_CELL * lists)]
        self.index.train(keys[sample.sort().values.to(keys.device)].float().cpu().numpy())
        for part in keys.split(_COLUMNS):
            self.index.add(part.float().cpu().numpy())
        self.index.nprobe = min(_PROBED, lists)

    def search(self, queries: Tensor, k: int) -> Tensor:
        """Indices [Q, k] of keys near to each query, nearest first; -1 where the lists looked into hold fewer."""
        neighbours: Any = self.index.search(queries.float().cpu().numpy(), k)[1]
        return torch.from_numpy(neighbours).to(queries.device)

    def recall(self, queries: Tensor, keys: Tensor, k: int) -> float:
        """Share of the true k nearest that it finds."""
        _, true = nearest(queries, keys, k, metric=self.metric)
        neighbours = self.search(queries, k)
        return float((true[:, :, None] == neighbours[:, None]).any(2).float().mean())


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise MissingDependencyError(
            "Search by faiss needs the package faiss-cpu: pip install faiss-cpu (engine=torch is as exact)"
        ) from None
    return faiss
