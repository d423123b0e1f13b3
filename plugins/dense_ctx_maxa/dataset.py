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

from . import tasks
from .target_cache import TargetCache


def open_images(data: Any, task: tasks.Task) -> ImageSet:
    """What the user names: an ImageSet, or {name: "camvid", root: ..., split: ..., options of the data set ...}.

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
    tasks.check_set(task, data)
    return data


class TaskData(SeededDataset):
    """Samples {"image" or the cached tensors, "target", "index"}.

    Args:
        task, images: what of what.
        image_size: (H, W) that the backbone sees.
        size: (H, W) of the targets.
        flip: mirror half of the samples; needs images, not cached maps.
        folder: where targets are kept; None: they are made each time.

    Attributes:
        cache: the backbone's maps; None: images are read.
        offsets: instances before each image, and of all, [N + 1]; of the task "instances" only.
    """

    def __init__(
        self,
        task: tasks.Task,
        images: ImageSet,
        image_size: Size,
        size: Size,
        flip: bool = False,
        folder: str | Path | None = None,
    ) -> None:
        self.task, self.images, self.image_size, self.size, self.flip = task, images, image_size, size, flip
        self.cache: FeatureCache | None = None
        self._targets = None if folder is None else TargetCache(folder, task, images, size)
        self.offsets: list[int] = []
        if task.name == "instances":
            self._count()
        elif not any(bool(tasks.known(task, self.target(index)).any()) for index in range(len(images))):
            raise InputError(
                f"None of the {len(images)} images has a known pixel: every target is void, invalid or infinite"
            )

    def _count(self) -> None:
        """Number the instances of all images."""
        self.offsets = [0]
        for index in range(len(self.images)):
            made = self.target(index)
            self.offsets.append(self.offsets[-1] + len(torch.unique(made[made > 0])))
        if not self.offsets[-1]:
            raise InputError(f"None of the {len(self.images)} images has an instance: there is nothing to tell apart")

    def __len__(self) -> int:
        return len(self.images)

    def target(self, index: int) -> Tensor:
        """An image's target at `size`; see `tasks.target`."""
        if self._targets is not None and (found := self._targets.get(index)) is not None:
            return found
        sample = self.images[index]
        return self._made(index, sample.target, sample.name)

    def _made(self, index: int, annotation: Tensor, name: str) -> Tensor:
        made = tasks.target(self.task, annotation, self.size, len(self.images.classes), name)
        if self._targets is not None:
            self._targets.put(index, made)
        return made

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.sample(index, 0)

    def sample(self, index: int, seed: int) -> dict[str, Any]:
        """A sample; the seed decides whether it is mirrored."""
        if self.cache is not None:
            if self.flip:
                raise ConfigError("flip needs images: cached maps cannot be mirrored")
            return {**self.cache.tensors(index), "target": self._labels(index, self.target(index)), "index": index}
        sample = self.images[index]
        made = None if self._targets is None else self._targets.get(index)
        made = self._labels(index, self._made(index, sample.target, sample.name) if made is None else made)
        image = resized(sample.image, self.image_size)
        if self.flip and random.Random(seed).random() < 0.5:
            image, made = image.flip(-1), made.flip(-1)
            if self.task.name == "normals":  # mirrored in x, as the surface is
                made = made * made.new_tensor([-1.0, 1.0, 1.0])[:, None, None]
        return {"image": image, "target": made, "index": index}

    def _labels(self, index: int, made: Tensor) -> Tensor:
        """Instances get their number in the whole data set, from 0; the background and unknown pixels -1."""
        if self.task.name != "instances":
            return made
        ids, places = torch.unique(made.clamp_min(0), return_inverse=True)
        first = self.offsets[index] - int(ids[0] == 0)
        return torch.where(made > 0, places + first, -1)
