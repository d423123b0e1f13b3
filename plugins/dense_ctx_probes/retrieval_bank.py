"""A memory bank of patches with an equal share for each image, and exact cosine search in blocks.

Published evaluators give each of n support images size // n places. Here images come one at a time and n is not known
before: each image's rows are kept in the order in which they would be chosen, and as images come, all are cut to the
share that is left. What remains after the last is what a choice with n known beforehand gives.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from dense_ctx.errors import InputError, MissingDependencyError, NotFittedError

Engine = Literal["torch", "faiss"]
_SLACK = 1.25  # rows above the size before all images are cut at once
_COLUMNS = 1 << 16  # keys compared at a time
_GROUP = 64  # of which the best stands for all in the first look


class Bank:
    """Rows of unit keys and their values.

    Args:
        size: rows at most.
        dtype: of what is kept.
    """

    def __init__(self, size: int, dtype: torch.dtype = torch.float32) -> None:
        self.size, self.dtype = size, dtype
        self._keys: list[Tensor] = []  # one an image
        self._values: list[Tensor] = []
        self._rows = 0
        self._whole: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        """Images."""
        return len(self._keys)

    def add(self, keys: Tensor, values: Tensor) -> None:
        """Add an image: keys [n, C] of any length, values [n, K], best choices first. K may grow from call to call."""
        if self._keys and keys.shape[1] != self._keys[0].shape[1]:
            raise InputError(f"features have {keys.shape[1]} dimensions; those in memory {self._keys[0].shape[1]}")
        share = max(1, self.size // (len(self._keys) + 1))
        unit = keys[:share].float() / keys[:share].float().norm(dim=1, keepdim=True)
        # a patch whose features are all zero is near to nothing
        self._keys.append(unit.nan_to_num(0, 0, 0).to(self.dtype).cpu().clone())
        self._values.append(values[:share].to(self.dtype).cpu().clone())
        self._rows += len(self._keys[-1])
        self._whole = None
        if self._rows > _SLACK * self.size:
            self._trim()

    def _trim(self) -> None:
        """Cut each image to its share; beyond `size` images, later ones have none."""
        if self._rows <= self.size:
            return
        share = max(1, self.size // len(self._keys))
        for index in range(len(self._keys)):
            kept = share if index < self.size else 0
            if len(self._keys[index]) > kept:  # copies: a view would keep the rest alive
                self._keys[index] = self._keys[index][:kept].clone()
                self._values[index] = self._values[index][:kept].clone()
        self._rows = sum(len(part) for part in self._keys)

    def whole(self) -> tuple[Tensor, Tensor]:
        """All keys [M, C] and values [M, K], image after image.

        Raises:
            NotFittedError: empty.
        """
        if self._whole is None:
            self._trim()
            if not self._rows:
                raise NotFittedError("The support set is empty: nothing is in memory. Call fit with annotated images")
            width = max(part.shape[1] for part in self._values)
            keys = torch.empty(self._rows, self._keys[0].shape[1], dtype=self.dtype)
            values = torch.zeros(self._rows, width, dtype=self.dtype)
            start = 0
            for index, (key, value) in enumerate(zip(self._keys, self._values, strict=True)):
                stop = start + len(key)
                keys[start:stop], values[start:stop, : value.shape[1]] = key, value
                # the parts become views of the whole, so that memory holds it once
                self._keys[index], self._values[index] = keys[start:stop], values[start:stop]
                start = stop
            self._whole = keys, values
        return self._whole

    def counts(self) -> Tensor:
        """Rows of each image, int64."""
        self._trim()
        return torch.tensor([len(part) for part in self._keys], dtype=torch.int64)

    def restore(self, keys: Tensor, values: Tensor, counts: Tensor) -> None:
        """Take back what `whole` and `counts` gave."""
        lengths = counts.tolist()
        if len(keys) != len(values) or sum(lengths) != len(keys):
            raise InputError(f"a bank of {len(keys)} keys, {len(values)} values and {sum(lengths)} rows of images")
        keys, values = keys.to(self.dtype), values.to(self.dtype)
        self._keys, self._values = list(keys.split(lengths)), list(values.split(lengths))
        self._rows, self._whole = len(keys), (keys, values)


def nearest(queries: Tensor, keys: Tensor, k: int, engine: Engine = "torch", rows: int = 2048) -> tuple[Tensor, Tensor]:
    """The k keys with the largest inner product with each query, exactly: products [Q, k], falling, and indices [Q, k].

    Args:
        queries: [Q, C]; keys: [M, C], of any floating type; products are made in float32.
        k: all M where there are fewer.
        engine: "torch" (on the queries' device, a block of keys at a time) or "faiss".
        rows: queries compared at a time.

    Raises:
        MissingDependencyError: engine="faiss" without it.
    """
    k = min(k, len(keys))
    if engine == "faiss":
        try:
            import faiss
        except ImportError:
            raise MissingDependencyError(
                "Search by faiss needs the package faiss-cpu: pip install faiss-cpu (engine=torch is as exact)"
            ) from None
        index = faiss.IndexFlatIP(keys.shape[1])
        for part in keys.split(_COLUMNS):
            index.add(part.float().numpy())
        scores, found = index.search(queries.float().cpu().numpy(), k)
        return torch.from_numpy(scores).to(queries.device), torch.from_numpy(found).to(queries.device)
    blocks = list(queries.float().split(rows))
    best: list[tuple[Tensor, Tensor] | None] = [None] * len(blocks)
    # keys outside: each of their blocks is converted and moved once
    for start in range(0, len(keys), _COLUMNS):
        part = keys[start : start + _COLUMNS].to(queries.device).float()
        for number, block in enumerate(blocks):
            scores, found = _top(block @ part.T, min(k, len(part)))
            found = found + start
            before = best[number]
            if before is not None:
                scores, order = torch.cat([before[0], scores], 1).topk(min(k, before[0].shape[1] + scores.shape[1]), 1)
                found = torch.cat([before[1], found], 1).gather(1, order)
            best[number] = scores, found
    pairs = [pair for pair in best if pair is not None]
    return torch.cat([scores for scores, _ in pairs]), torch.cat([found for _, found in pairs])


def _top(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """topk along rows, in two looks: the k largest are in the k groups with the largest maxima."""
    columns = scores.shape[1]
    if columns < 8 * _GROUP * k:
        return scores.topk(k, 1)
    short = -columns % _GROUP
    if short:
        scores = functional.pad(scores, (0, short), value=-float("inf"))
    groups = scores.view(len(scores), -1, _GROUP)
    chosen = groups.amax(2).topk(k, 1).indices
    inside = groups.gather(1, chosen[:, :, None].expand(-1, -1, _GROUP)).flatten(1)
    values, place = inside.topk(k, 1)
    return values, chosen.gather(1, place // _GROUP) * _GROUP + place % _GROUP
