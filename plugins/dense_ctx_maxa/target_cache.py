"""Targets on disk: made once, read by every epoch, worker and backbone."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dense_ctx.data import ImageSet
from dense_ctx.errors import ConfigError
from dense_ctx.files import new_file, read_json, write_json, write_tensors
from dense_ctx.interfaces import Size

from .tasks import Task

FORMAT = 1


class TargetCache:
    """A file for each image, in a folder of its own for each set of images.

    Args:
        folder: of one task, size and data set; training and held-out images may share it.

    Raises:
        ConfigError: it holds targets of another task or size; what differs is named.
        FileError: it cannot be written.
    """

    def __init__(self, folder: str | Path, task: Task, images: ImageSet, size: Size) -> None:
        names = hashlib.sha256(json.dumps(list(images.names)).encode()).hexdigest()
        self.folder, self.task = Path(folder) / names[:16], task
        identity = {
            "format": FORMAT,
            "task": task.name,
            "size": list(size),
            "images": len(images),
            "names": names,
            **({"args": json.loads(json.dumps(dict(task.args), default=str))} if task.args else {}),
        }
        path = self.folder / "targets.json"
        if not path.exists():
            write_json(path, identity)
            return
        before = read_json(path)
        keys = sorted({*identity, *before})
        differing = [f"{k}: {before.get(k)!r} there, {identity.get(k)!r} now" for k in keys if before.get(k) != identity.get(k)]
        if differing:
            raise ConfigError(f"The targets in {self.folder} are stale: {'; '.join(differing)}. Choose another folder")

    def get(self, index: int) -> Tensor | None:
        """An image's target, if its file exists and is whole."""
        path = self._path(index)
        if not path.exists():
            return None
        try:
            target = load_file(str(path))["target"]
        except (SafetensorError, OSError, KeyError):  # damaged: made again
            return None
        return target.float() if self.task.values else target.long()

    def put(self, index: int, target: Tensor) -> None:
        """Write an image's target: of values in the task's type, of labels in the smallest integers.

        Raises:
            FileError: the disk is full or not writable.
        """
        labels = torch.int32 if not self.task.values and int(target.max()) > 32767 else torch.int16
        stored = target.to(self.task.stored if self.task.values else labels).contiguous()
        path = self._path(index)
        with new_file(path, f"a target to {path}", shared=True, sync=False) as partial:
            write_tensors(partial, {"target": stored})

    def _path(self, index: int) -> Path:
        return self.folder / f"{index // 1000:05d}" / f"{index:08d}.safetensors"
