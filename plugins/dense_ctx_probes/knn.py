"""Soft nearest neighbours from a bounded memory bank of support cells (Balazevic et al. 2023; DIP, eq. 1-2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from dense_ctx.errors import InputError, NotFittedError
from dense_ctx.gateway import gateway
from dense_ctx.interfaces import DenseFeatures, Size, Task

from .bank import CellBank, pooled
from .targets import at_size

_KEYS = 1 << 13  # compared at a time, each block of them copied to unit length
_WIDE = 1 << 16  # on an accelerator, where each block is some launches


class KnnProbe(CellBank):
    """Cosine nearest neighbours on a grid of cells; the result is upsampled bilinearly.

    Args:
        k: neighbours that vote, with softmax(cosine / temperature).
        task, temperature, stride, memory, seed, device_memory: see `CellBank`.
    """

    file_args: ClassVar[Mapping[str, Any] | None] = {**(CellBank.file_args or {}), "k": range(1, 4097)}

    def __init__(
        self,
        task: Task = "segmentation",
        k: int = 30,
        temperature: float = 0.02,
        stride: int | None = None,
        memory: int = 65_536,
        seed: int | None = None,
        device_memory: str | int | None = None,
    ) -> None:
        super().__init__(task, temperature, stride, memory, seed, device_memory)
        if k < 1:
            raise InputError(f"k={k}: above 0")
        self.k = k

    def predict(self, features: DenseFeatures, size: Size | None = None) -> Tensor:
        """[B, K, *size]: probabilities or values."""
        if self.keys_ is None:
            raise NotFittedError("Nothing in memory: call fit first")
        cells = pooled(features.pixels.float(), self._step(features.pixels, 1.0))
        rows = rearrange(cells, "b d h w -> (b h w) d")
        keys, values = self._resident.of(rows.device, self.keys_, self.values_)
        values, _ = soft_knn(rows, keys, values, self.k, self.temperature)
        batch, _, height, _ = cells.shape
        scores = rearrange(values, "(b h w) k -> b k h w", b=batch, h=height)
        return at_size(scores, size, features.pixels)


@gateway
def soft_knn(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    k: int = 30,
    temperature: float = 0.02,
    max_bytes: int = 1 << 26,
) -> tuple[Tensor, Tensor]:
    """Soft nearest neighbours by cosine: the values of the k nearest keys, weighted by softmax(cosine / temperature).

    Exact, in blocks of queries and keys, so that memory stays near `max_bytes` whatever their number (Balazevic et al.
    2023, "Towards In-context Scene Understanding"; DIP eq. 1-2).

    Args:
        queries: [Q, d]; keys: [M, d], on any device; neither needs to be normalised.
        values: [M, m], on any device.
        k: neighbours; all M where there are fewer.

    Returns:
        The weighted values [Q, m], and the neighbours' indices [Q, k], nearest first.

    Raises:
        InputError: shapes that do not match, no keys, k or temperature not above 0.
    """
    shapes = ", ".join(str(list(tensor.shape)) for tensor in (queries, keys, values))
    if queries.ndim != 2 or keys.ndim != 2 or queries.shape[1] != keys.shape[1] or len(keys) != len(values):
        raise InputError(f"queries [Q, d], keys [M, d], values [M, m] do not match: {shapes}")
    if k < 1 or not temperature > 0 or len(keys) == 0:
        raise InputError(f"k={k} and temperature={temperature} must be above 0, and keys ({len(keys)}) not empty")
    k = min(k, len(keys))
    columns = max(k, min(len(keys), _KEYS if queries.device.type == "cpu" else _WIDE))
    parts = functional.normalize(queries, dim=1).split(max(1, max_bytes // (4 * columns)))
    best: list[tuple[Tensor, Tensor] | None] = [None] * len(parts)
    for start in range(0, len(keys), columns):
        block = functional.normalize(keys[start : start + columns].to(queries.device), dim=1)
        for number, (part, before) in enumerate(zip(parts, best, strict=True)):
            scores, nearest = (part @ block.T).topk(min(k, len(block)), dim=1)
            nearest = nearest + start
            if before is not None:
                scores, order = torch.cat([before[0], scores], 1).topk(k, dim=1)
                nearest = torch.cat([before[1], nearest], 1).gather(1, order)
            best[number] = scores, nearest
    pairs = [pair for pair in best if pair is not None]
    weighted = [
        torch.einsum("qk,qkm->qm", (scores / temperature).softmax(1), values[index.to(values.device)].to(scores))
        for scores, index in pairs
    ]
    return torch.cat(weighted), torch.cat([index for _, index in pairs])
