"""Samples of a task: an image, or the backbone's cached maps of it, and its target at the size of the output."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dense_ctx.data import ImageSet, open_set
from dense_ctx.data.features import FeatureCache
from dense_ctx.errors import ConfigError, InputError
from dense_ctx.images import resized
from dense_ctx.interfaces import SeededDataset, Size

from .target_cache import TargetCache
from .tasks import Task, check_images, make_target


def open_images(data: Any, task: Task) -> ImageSet:
    """Open the data: an ImageSet, or {name: "camvid", root: ..., split: ..., options of the data set ...}.

    Raises:
        ConfigError: another kind of data than the task's.
        InputError: neither, or no image.
        FileError, UnknownNameError: as `dense_ctx.data.open_set`.
    """
    if isinstance(data, Mapping):
        if not {"name", "root"} <= set(data):
            raise InputError(f"data needs name (of a data set) and root; got {', '.join(map(str, data)) or 'nothing'}")
        options = {str(key): value for key, value in data.items() if key not in ("name", "root", "split")}
        data = open_set(data["name"], data["root"], data.get("split", "train"), **options)
    if not isinstance(data, ImageSet):
        raise InputError(
            f"MAXA's tasks take a data set of images, or {{name: ..., root: ..., split: ...}}; got "
            f"{type(data).__name__}"
        )
    check_images(task, data)
    return data


class TaskData(SeededDataset):
    """Samples {"image" or the cached tensors, "target", "index"}.

    Args:
        task: makes the targets.
        images: the annotated images.
        image_size: (H, W) that the backbone sees.
        size: (H, W) of the targets.
        flip: mirror half of the samples; needs images, not cached maps.
        folder: holds targets between runs, see `TargetCache`; None: they are made each time.

    Attributes:
        features: the backbone's maps; None: images are read.
        offsets: of a numbered task, the instances before each image, and of all, [N + 1]; else [].

    Raises:
        InputError: nothing is known of any image.
    """

    def __init__(
        self,
        task: Task,
        images: ImageSet,
        image_size: Size,
        size: Size,
        flip: bool = False,
        folder: str | Path | None = None,
    ) -> None:
        self.task, self.images, self.image_size, self.size, self.flip = task, images, image_size, size, flip
        self.features: FeatureCache | None = None
        self._targets = None if folder is None else TargetCache(folder, task, images, size)
        self.offsets = self._count() if task.numbered else []
        if not task.numbered and not any(bool(task.known(self.target(index)).any()) for index in range(len(images))):
            raise InputError(
                f"None of the {len(images)} images has a known pixel: every target is void, invalid or infinite"
            )

    def _count(self) -> list[int]:
        """Number the instances of all images."""
        offsets = [0]
        for index in range(len(self.images)):
            target = self.target(index)
            offsets.append(offsets[-1] + len(torch.unique(target[target > 0])))
        if not offsets[-1]:
            raise InputError(f"None of the {len(self.images)} images has an instance: there is nothing to tell apart")
        return offsets

    def __len__(self) -> int:
        return len(self.images)

    def target(self, index: int) -> Tensor:
        """An image's target at `size`, as the task makes it."""
        stored = None if self._targets is None else self._targets.get(index)
        if stored is not None:
            return stored
        sample = self.images[index]
        return self._make(index, sample.target, sample.name)

    def _make(self, index: int, annotation: Tensor, name: str) -> Tensor:
        target = make_target(self.task, annotation, self.size, self.images.classes, name)
        if self._targets is not None:
            self._targets.put(index, target)
        return target

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.sample(index, 0)

    def sample(self, index: int, seed: int) -> dict[str, Any]:
        """A sample; the seed decides whether it is mirrored."""
        if self.features is not None:
            if self.flip:
                raise ConfigError("flip needs images: cached maps cannot be mirrored")
            return {
                **self.features.tensors(index),
                "target": self._numbered(index, self.target(index)),
                "index": index,
            }
        sample = self.images[index]
        stored = None if self._targets is None else self._targets.get(index)
        target = self._make(index, sample.target, sample.name) if stored is None else stored
        target = self._numbered(index, target)
        image = resized(sample.image, self.image_size)
        if self.flip and random.Random(seed).random() < 0.5:
            image, target = image.flip(-1), self.task.mirrored(target)
        return {"image": image, "target": target, "index": index}

    def _numbered(self, index: int, target: Tensor) -> Tensor:
        """Of a numbered task, each instance's number in the whole data set, from 0; all other pixels are -1."""
        if not self.task.numbered:
            return target
        ids, ranks = torch.unique(target.clamp_min(0), return_inverse=True)
        first = self.offsets[index] - int(ids[0] == 0)
        return torch.where(target > 0, ranks + first, -1)
