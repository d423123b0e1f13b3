"""Cache of targets on disk: computed once, read in every epoch, by every worker and for every backbone."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from dense_ctx.data import ImageSet
from dense_ctx.data.cache import DiskCache, Shard
from dense_ctx.errors import FileError
from dense_ctx.files import json_digest
from dense_ctx.interfaces import Size
from dense_ctx.persistence.identity import Identity
from dense_ctx.persistence.tensors import Spec

from .tasks import Task

FORMAT = 1


class TargetCache:
    """A file for each image, in a folder of its own for each set of images.

    Args:
        folder: of one task, size and data set; training and held-out images may share it.

    Raises:
        ConfigError: it holds targets of another task or size; the message names what differs.
        FileError: it holds other files, or cannot be written.
    """

    def __init__(self, folder: str | Path, task: Task, images: ImageSet, size: Size) -> None:
        self.task, self.size, names = task, size, json_digest(list(images.names))
        settings = {
            "format": FORMAT,
            "task": task.name,
            "args": dict(task.args),
            "size": list(size),
            "images": len(images),
            "names": names,
        }
        identity = Identity(Path(folder) / names[:16] / "targets.json", "target cache")
        self._cache = DiskCache(identity, settings, Shard)
        self._cache.claim()

    def get(self, index: int) -> Tensor | None:
        """An image's target; None where it is missing, damaged or of another kind, so that it is made again."""
        try:
            shard = self._cache.shard(_name(index))
            target = shard.require({"target": self._spec(shard)}).tensor("target")
        except FileError:
            return None
        return target.float() if self.task.values else target.long()

    def _spec(self, shard: Shard) -> Spec:
        if self.task.values:
            return self.task.stored, ("K", *self.size)
        large = shard.specs.get("target", (None,))[0] == torch.int32  # of many instances
        return torch.int32 if large else torch.int16, self.size

    def put(self, index: int, target: Tensor) -> None:
        """Write an image's target: of values in the task's type, of labels in the smallest integers.

        Raises:
            FileError: the disk is full or not writable.
        """
        labels = torch.int32 if not self.task.values and int(target.max()) > 32767 else torch.int16
        self._cache.write(
            _name(index), {"target": target.to(self.task.stored if self.task.values else labels)}, sync=False
        )


def _name(index: int) -> str:
    return f"{index // 1000:05d}/{index:08d}"
