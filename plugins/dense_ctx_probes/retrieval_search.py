"""Nearest keys: exact, in blocks, by torch or faiss; or approximate, by a faiss index whose recall is measured."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from dense_ctx.containment import optional_package
from dense_ctx.errors import InputError

from .retrieval_blocks import BLOCK, Metric, by_first_look, exhaustive, first_look_pays

Engine = Literal["torch", "faiss", "ivf", "ivfpq"]
_PER_CELL = 64  # training rows of an inverted list
_PROBED = 32  # inverted lists searched


def nearest(
    queries: Tensor, keys: Tensor, k: int, engine: Engine = "torch", rows: int = 1024, metric: Metric = "product"
) -> tuple[Tensor, Tensor]:
    """The k nearest keys of each query, exactly: scores [Q, k], falling, and indices [Q, k].

    Args:
        queries: [Q, C]; keys: [M, C], of any floating type; scores are of products in float32.
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
        for part in keys.split(BLOCK):
            index.add(part.float().cpu().numpy())
        scores, neighbours = (torch.from_numpy(item) for item in index.search(queries.float().cpu().numpy(), k))
        if metric == "l2":
            scores = (queries.float().cpu().square().sum(1, keepdim=True) - scores) / 2
        return scores.to(queries.device), neighbours.to(queries.device)
    queries = queries.detach().float()
    if first_look_pays(queries, keys, k, metric):
        return by_first_look(queries, keys, k, rows)
    return exhaustive(queries, keys, k, metric, rows)


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
        for part in keys.split(BLOCK):
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
    return optional_package("faiss", "Search by faiss (engine=torch is as exact)", "faiss-cpu")
