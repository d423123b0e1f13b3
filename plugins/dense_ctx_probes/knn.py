"""Soft nearest neighbours from a bounded memory bank of support cells (Balazevic et al. 2023; DIP, eq. 1-2)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from dense_ctx.errors import InputError, NotFittedError
from dense_ctx.gateway import gateway
from dense_ctx.interfaces import DenseFeatures, Probe, Size, Task
from dense_ctx.persistence.file_args import SEEDS
from dense_ctx.persistence.tensors import require_state

from .resident import Resident
from .targets import at_size, check

CELLS = 16_384  # of an image, at most


class KnnProbe(Probe):
    """Cosine nearest neighbours on a grid of cells; the result is upsampled bilinearly.

    A cell is `stride` x `stride` pixels: the mean of their features, and the share of each class (or mean value) among
    its labelled ones.

    Args:
        task: see `dense_ctx.Probe`.
        k, temperature: neighbours, and the softmax over their cosines.
        stride: pixels per side of a cell; default the least that gives an image at most 16,384 cells.
        memory: most cells stored; of more, a uniform sample (reservoir sampling).
        seed: of that sample.
        device_memory: bytes ("8GB") of an accelerator that a copy of the bank may take, so that it is copied there
            once; None: half of what is free. A larger bank is copied for each search, block by block, and a warning
            says so.
    """

    file_args: ClassVar[Mapping[str, Any] | None] = {
        "k": range(1, 4097),
        "temperature": (0.0, 1e6),
        "stride": range(1, 4097),
        "memory": range(1, 1 << 26),
        "seed": SEEDS,
    }

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
        super().__init__(task, seed)
        self._resident = Resident(device_memory)
        if min(k, 1 if stride is None else stride, memory) < 1 or not temperature > 0:
            raise InputError(f"k={k}, stride={stride}, memory={memory}, temperature={temperature}: all above 0")
        self.k, self.temperature, self.stride, self.memory = k, temperature, stride, memory
        self.keys_: Tensor | None = None
        self.values_ = torch.empty(0)
        self.seen_ = 0

    def partial_fit(self, features: DenseFeatures, targets: Tensor) -> KnnProbe:
        """Add the cells of B images that hold a labelled pixel."""
        keys, values = self._cells(features, targets)
        self._resident.clear()
        if self.keys_ is None:
            self.keys_, self.values_ = keys[:0], values[:0]
        width = max(values.shape[1], self.values_.shape[1])
        if self.task == "segmentation":
            values = functional.pad(values, (0, width - values.shape[1]))
            self.values_ = functional.pad(self.values_, (0, width - self.values_.shape[1]))
        room = max(0, min(self.memory - len(self.keys_), len(keys)))
        self.keys_ = torch.cat([self.keys_, keys[:room]])
        self.values_ = torch.cat([self.values_, values[:room]])
        rest = torch.arange(room, len(keys))
        if len(rest):
            # seeded by the count, so that a probe saved and loaded half-way samples the same
            generator = torch.Generator().manual_seed(self.seed + self.seen_)
            slots = (torch.rand(len(rest), generator=generator, dtype=torch.float64) * (self.seen_ + rest + 1)).long()
            inside = slots < self.memory
            self.keys_[slots[inside]] = keys[rest[inside]]
            self.values_[slots[inside]] = values[rest[inside]]
        self.seen_ += len(keys)
        return self

    def _cells(self, features: DenseFeatures, targets: Tensor) -> tuple[Tensor, Tensor]:
        check(features, targets, self.task)
        if self.task == "segmentation":
            count = max(int(targets.max()) + 1, self.values_.shape[1] if self.keys_ is not None else 0)
            valid = targets >= 0
            values = functional.one_hot(targets.clamp_min(0), max(1, count)).movedim(-1, 1).float() * valid[:, None]
        else:
            valid = targets.isfinite().all(1)
            values = torch.where(valid[:, None], targets, 0.0).float()
        step = self._step(targets, float(valid.float().mean()))
        share = pooled(valid[:, None].float(), step)
        values = pooled(values, step) / share.clamp_min(1e-9)
        labelled = share[:, 0] > 0
        if not bool(labelled.any()):
            raise InputError("No labelled pixel: every target is ignored (-1) or NaN")
        pixels = features.pixels.movedim(1, -1) if step == 1 else pooled(features.pixels.float(), step).movedim(1, -1)
        return pixels[labelled.to(pixels.device)].float().cpu(), values.movedim(1, -1)[labelled].cpu()

    def _step(self, grid: Tensor, share: float) -> int:
        """Pixels per side of a cell of a grid [..., H, W] of which a share is annotated, or to be predicted (1)."""
        return self.stride or math.ceil(math.sqrt(grid.shape[-2] * grid.shape[-1] / CELLS))

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

    def state_dict(self) -> dict[str, Tensor]:
        """The memory bank."""
        if self.keys_ is None:
            raise NotFittedError("Nothing to save: call fit first")
        return {"keys": self.keys_, "values": self.values_, "seen": torch.tensor(self.seen_)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore a memory bank."""
        cells = {"keys": (torch.float32, ("M", "d")), "values": (torch.float32, ("M", "K"))}
        require_state(state, {**cells, "seen": (torch.int64, ())}, "The state is not that of a k-NN probe")
        self.keys_, self.values_, self.seen_ = state["keys"], state["values"], int(state["seen"])
        self._resident.clear()


def pooled(x: Tensor, step: int) -> Tensor:
    """Means over cells of `step` x `step`, [B, C, h, w] of [B, C, H, W]."""
    # the last cells may be cut by the border; they average what is there
    return functional.avg_pool2d(x, step, step, ceil_mode=True) if step > 1 else x


@gateway
def soft_knn(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    k: int = 30,
    temperature: float = 0.02,
    max_bytes: int = 1 << 28,
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
    columns = max(k, min(len(keys), 1 << 16))
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
