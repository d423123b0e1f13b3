"""Targets kept on disk: made once, read by every epoch, worker and backbone."""

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
_STORED = {"boundaries": torch.float16, "distance": torch.float16, "normals": torch.float16, "depth": torch.float32}


class TargetCache:
    """A file for each image under `folder`, float16 or the labels' smallest integers.

    Args:
        folder: holds the targets of one data set, task and size.

    Raises:
        ConfigError: it holds those of another; what differs is named.
        FileError: it cannot be written.
    """

    def __init__(self, folder: str | Path, task: Task, images: ImageSet, size: Size) -> None:
        self.folder, self.task = Path(folder), task
        wanted = {
            "format": FORMAT,
            "task": task.name,
            "size": list(size),
            "images": len(images),
            "names": hashlib.sha256(json.dumps(list(images.names)).encode()).hexdigest(),
        }
        path = self.folder / "targets.json"
        if path.exists():
            there = read_json(path)
            differing = [f"{k}: {there.get(k)!r} there, {v!r} now" for k, v in wanted.items() if there.get(k) != v]
            if differing:
                raise ConfigError(
                    f"The targets in {self.folder} are stale: {'; '.join(differing)}. Choose another folder"
                )
        else:
            write_json(path, wanted)

    def get(self, index: int) -> Tensor | None:
        """An image's target, if it is there and whole."""
        path = self._path(index)
        if not path.exists():
            return None
        try:
            found = load_file(str(path))["target"]
        except (SafetensorError, OSError, KeyError):  # damaged: made again
            return None
        return found.float() if self.task.values else found.long()

    def put(self, index: int, target: Tensor) -> None:
        """Keep an image's target.

        Raises:
            FileError: the disk is full or not writable.
        """
        dtype = _STORED.get(self.task.name) or (torch.int16 if int(target.max()) < 32768 else torch.int32)
        path = self._path(index)
        with new_file(path, f"a target to {path}", shared=True, sync=False) as partial:
            write_tensors(partial, {"target": target.to(dtype).contiguous()})

    def _path(self, index: int) -> Path:
        return self.folder / f"{index // 1000:05d}" / f"{index:08d}.safetensors"
