"""Feed a model: files are read ahead of it, and consecutive images of one size go through it as one batch.

Batches are CUDA's alone: a CPU is no faster by them. What a batch gives is what its images give one by one, up to the
rounding of the network's floating-point type.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import repeat, takewhile
from typing import Any, TypeVar

import torch
from torch import Tensor

from dense_ctx.errors import DenseCtxError, MemoryBudgetError
from dense_ctx.interfaces import Size
from dense_ctx.model import DenseModel
from dense_ctx.progress import ahead
from dense_ctx.tiling import plan
from dense_ctx.tiling.budget import split_budget
from dense_ctx.train.data import reader_count

T = TypeVar("T")

BATCH = 8  # images at once, at most
_SHARE = 0.5  # of an accelerator's free memory, where no budget is given


class Room:
    """How many images of one size go through a model together: one on a CPU, on CUDA up to `BATCH` within its memory.

    Args:
        max_memory: as for `DenseModel.forward`; None: half of what the accelerator has free.
        channels: of what is computed from the features at each pixel.
    """

    def __init__(self, model: DenseModel, max_memory: str | int | None = None, channels: int = 0) -> None:
        self.model, self.channels = model, channels
        self.budget = None if max_memory is None else split_budget(max_memory)[0]
        self._pixels = 0.0  # that the free memory is enough for; 0: not known yet

    def __call__(self, size: Size) -> int:
        """For images of `size`, (H, W)."""
        if self.model.device.type != "cuda":
            return 1
        if self.budget is not None:
            return self._most(size, self.budget)
        if not self._pixels:  # once: it takes a while, and the sizes of a folder of pictures may be many
            free = int(_SHARE * torch.cuda.mem_get_info(self.model.device)[0])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a network whose memory is not known in advance: a guess will do
                self._pixels = float(self._most(size, free) * size[0] * size[1])
        return max(1, min(BATCH, int(self._pixels / (size[0] * size[1]))))

    def _most(self, size: Size, budget: int) -> int:
        return next((count for count in (BATCH, 4, 2) if self._fits(size, budget // count)), 1)

    def _fits(self, size: Size, budget: int) -> bool:
        try:
            return len(plan(self.model, size, budget, self.channels)) == 1
        except MemoryBudgetError:
            return False


def batches(
    model: DenseModel, items: Sequence[T], read: Callable[[T], Any], room: Callable[[Size], int]
) -> Iterator[list[tuple[T, Any]]]:
    """Each item and what `read` gives of it, in order; consecutive images [3, H, W] of one size come together.

    Beside an accelerator threads (`reader_count`) are `BATCH` and more items ahead; on a CPU, whose cores the network
    takes, each item is read in its turn.

    Args:
        read: an image; what is no tensor comes alone. A DenseCtxError is raised once the items before it have come.
        room: how many of a size may come together, such as `Room`.
    """
    values: Iterator[Any] = map(read, items)
    if model.device.type != "cpu":
        threads = max(1, reader_count(model.device))
        values = ahead(read, items, depth=threads + BATCH, threads=threads)
    together: list[tuple[T, Any]] = []
    most = 1
    try:
        for value, item in zip(values, items, strict=True):
            image = isinstance(value, Tensor)
            if together and not (image and len(together) < most and value.shape == together[0][1].shape):
                yield together
                together = []
            if not together:
                most = room((value.shape[-2], value.shape[-1])) if image else 1
            together.append((item, value))
            if len(together) == most:
                yield together
                together = []
    except DenseCtxError:
        if together:
            yield together
        raise
    if together:
        yield together


def results(
    images: Sequence[Any], batch: Callable[[Tensor], Sequence[Any]], one: Callable[[Any], Any]
) -> Iterator[Any]:
    """Of images [3, H, W], in order, what `batch` gives of [B, 3, H, W]; or what `one` gives of each, one at a time.

    The latter where an image is alone, and where `batch` raises a DenseCtxError: which image is at fault is seen then.
    """
    if len(images) > 1:
        with suppress(DenseCtxError):  # too much memory, or a value that is not finite
            return iter(batch(torch.stack(list(images))))
    return map(one, images)


def decoded(video: Iterable[T]) -> Iterator[T]:
    """The frames of a video, decoded by a thread that is ahead."""
    frames = iter(video)
    return takewhile(lambda frame: frame is not None, ahead(lambda _: next(frames, None), repeat(None)))
