"""A bounded bank of annotated cells, which probes read in their own ways."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from dense_ctx.errors import InputError, NotFittedError
from dense_ctx.interfaces import DenseFeatures, Probe, Task
from dense_ctx.persistence.file_args import SEEDS
from dense_ctx.persistence.tensors import require_state

from .resident import Resident
from .targets import check

if TYPE_CHECKING:
    from typing_extensions import Self

_STRIP = 1 << 22  # values pooled at once


def pooled(x: Tensor, step: int) -> Tensor:
    """Means over cells of `step` x `step`, [B, C, h, w] of [B, C, H, W]."""
    if step == 1:
        return x
    # in strips, since pixels whose padding was cut off are copied: all at once that is as much memory again
    rows = max(1, _STRIP * x.shape[2] // (step * x.numel()))
    # the last cells may be cut by the border; they average what is there
    return torch.cat([functional.avg_pool2d(part, step, step, ceil_mode=True) for part in x.split(rows * step, 2)], 2)


def sampled(x: Tensor, step: int) -> Tensor:
    """Means of four pixels of each cell, a fourth of its side from its borders: [B, C, h, w] of [B, C, H, W].

    Enlarged features hold little more in between, and reading all takes a tenth of a second at 496 x 480 x 854. In
    cells that the border cuts, pixels beyond it are the last ones.
    """
    if step == 1:
        return x
    pixels = x.movedim(1, -1)
    rows, columns = (list(_samples(side, step)) for side in x.shape[-2:])
    sums = pixels.new_zeros(x.shape[0], -(-x.shape[2] // step), -(-x.shape[3] // step), x.shape[1])
    for row_cells, row_pixels in rows:
        for column_cells, column_pixels in columns:
            sums[:, row_cells, column_cells] += pixels[:, row_pixels, column_pixels]
    return (sums / 4).movedim(-1, 1)


def class_shares(labels: Tensor, labelled: Tensor, step: int, count: int) -> Tensor:
    """Shares [N, K] of the classes among the labelled pixels of cells, of labels [B, H, W], -1 where there is none.

    Counted: a map for each class is memory in proportion to their number.

    Args:
        labelled: [B, h, w], the N cells that hold a labelled pixel.
        step: pixels per side of a cell.
        count: K.
    """
    places = labelled.flatten().cumsum(0).view_as(labelled) - 1
    rows, columns = (torch.arange(side, device=labels.device) // step for side in labels.shape[1:])
    keep = labels >= 0
    index = places[:, rows][:, :, columns][keep] * count + labels[keep]
    counts = index.bincount(minlength=int(labelled.sum()) * count).view(-1, count).float()
    return counts / counts.sum(1, keepdim=True)


def _samples(length: int, step: int) -> Iterator[tuple[slice, slice]]:
    """Cells along one side, and their pixels."""
    for offset in (step // 4, step - 1 - step // 4):
        inside = len(range(offset, length, step))
        yield slice(inside), slice(offset, None, step)
        yield slice(inside, None), slice(length - 1, None)  # of the last cell, where the border cuts it


class CellBank(Probe):
    """Keeps cells of annotated images, up to a number.

    A cell is `stride` x `stride` pixels: the mean of their features, and the share of each class (or mean value) among
    its labelled ones.

    Args:
        task: see `dense_ctx.Probe`.
        temperature: of a softmax over cosines.
        stride: pixels per side of a cell; default the least that gives an image at most `cells` of them.
        memory: most cells stored; of more, a uniform sample (reservoir sampling).
        seed: of that sample.
        device_memory: bytes ("8GB") of an accelerator that a copy of the bank may take, so that it is copied there
            once; None: half of what is free. A larger bank is copied for each search, block by block, and a warning
            says so.
    """

    cells: ClassVar[int] = 16_384  # of an image, at most
    read: Callable[[Tensor, int], Tensor] = staticmethod(pooled)  # the features of cells of so many pixels a side
    file_args: ClassVar[Mapping[str, Any] | None] = {
        "temperature": (0.0, 1e6),
        "stride": range(1, 4097),
        "memory": range(1, 1 << 26),
        "seed": SEEDS,
    }

    def __init__(
        self,
        task: Task,
        temperature: float,
        stride: int | None,
        memory: int,
        seed: int | None,
        device_memory: str | int | None,
    ) -> None:
        super().__init__(task, seed)
        self._resident = Resident(device_memory)
        if min(1 if stride is None else stride, memory) < 1 or not temperature > 0:
            raise InputError(f"stride={stride}, memory={memory}, temperature={temperature}: all above 0")
        self.temperature, self.stride, self.memory = temperature, stride, memory
        self.keys_: Tensor | None = None
        self.values_ = torch.empty(0)
        self.seen_ = 0

    def partial_fit(self, features: DenseFeatures, targets: Tensor) -> Self:
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
            # the last of a slot stays; threads that write to one would leave a cell's key beside another's values
            last = torch.full((self.memory,), -1).scatter_reduce_(0, slots[inside], rest[inside], "amax")
            rows = (last >= 0).nonzero()[:, 0]
            self.keys_[rows] = keys[last[rows]]
            self.values_[rows] = values[last[rows]]
        self.seen_ += len(keys)
        return self

    def _cells(self, features: DenseFeatures, targets: Tensor) -> tuple[Tensor, Tensor]:
        check(features, targets, self.task)
        segmentation = self.task == "segmentation"
        valid = targets >= 0 if segmentation else targets.isfinite().all(1)
        if not bool(valid.any()):
            raise InputError("No labelled pixel: every target is ignored (-1) or NaN")
        step = self._step(targets, float(valid.float().mean()))
        share = pooled(valid[:, None].float(), step)
        labelled = share[:, 0] > 0
        if segmentation:
            count = max(int(targets.max()) + 1, self.values_.shape[1] if self.keys_ is not None else 0)
            values = class_shares(targets, labelled, step, count)
        else:
            means = pooled(torch.where(valid[:, None], targets, 0.0).float(), step) / share.clamp_min(1e-9)
            values = means.movedim(1, -1)[labelled]
        pixels = (features.pixels if step == 1 else self.read(features.pixels.float(), step)).movedim(1, -1)
        return pixels[labelled.to(pixels.device)].float().cpu(), values.cpu()

    def _step(self, grid: Tensor, share: float) -> int:
        """Pixels per side of a cell of a grid [..., H, W] of which a share is annotated, or to be predicted (1)."""
        return self.stride or math.ceil(math.sqrt(grid.shape[-2] * grid.shape[-1] / self.cells))

    def state_dict(self) -> dict[str, Tensor]:
        """The memory bank."""
        if self.keys_ is None:
            raise NotFittedError("Nothing to save: call fit first")
        return {"keys": self.keys_, "values": self.values_, "seen": torch.tensor(self.seen_)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore a memory bank."""
        cells = {"keys": (torch.float32, ("M", "d")), "values": (torch.float32, ("M", "K"))}
        require_state(state, {**cells, "seen": (torch.int64, ())}, "The state is not that of a bank of cells")
        self.keys_, self.values_, self.seen_ = state["keys"], state["values"], int(state["seen"])
        self._resident.clear()
