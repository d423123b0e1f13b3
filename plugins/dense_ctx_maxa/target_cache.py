"""Targets on disk: made once, read by every epoch, worker and backbone."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from dense_ctx.data import ImageSet
from dense_ctx.data.cache import DiskCache, Shard
from dense_ctx.errors import FileError
from dense_ctx.files import json_digest
from dense_ctx.identity import Identity
from dense_ctx.interfaces import Size

from .tasks import Task

FORMAT = 1
_STORED = {"boundaries": torch.float16, "distance": torch.float16, "normals": torch.float16, "depth": torch.float32}


class TargetCache:
    """A file for each image under `folder`, float16 or the labels' smallest integers.

    Args:
        folder: holds the targets of one data set, task and size.

    Raises:
        ConfigError: it holds those of another; what differs is named.
        FileError: it holds other files, or cannot be written.
    """

    def __init__(self, folder: str | Path, task: Task, images: ImageSet, size: Size) -> None:
        self.task = task
        settings = {
            "format": FORMAT,
            "task": task.name,
            "size": list(size),
            "images": len(images),
            "names": json_digest(list(images.names)),
        }
        self._cache = DiskCache(Identity(Path(folder) / "targets.json", "target cache"), settings, Shard)
        self._cache.claim()

    def get(self, index: int) -> Tensor | None:
        """An image's target; None where it is missing or damaged, so that it is made again."""
        try:
            target = self._cache.shard(_name(index)).tensor("target")
        except FileError:
            return None
        return target.float() if self.task.values else target.long()

    def put(self, index: int, target: Tensor) -> None:
        """Write an image's target.

        Raises:
            FileError: the disk is full or not writable.
        """
        dtype = _STORED.get(self.task.name) or (torch.int16 if int(target.max()) < 32768 else torch.int32)
        self._cache.write(_name(index), {"target": target.to(dtype)}, sync=False)


def _name(index: int) -> str:
    return f"{index // 1000:05d}/{index:08d}"
