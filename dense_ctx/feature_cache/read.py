"""FeatureCache: a backbone's maps of the images of a data set, from disk."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.base import ImageSet
from ..errors import ConfigError, FileError, InputError
from ..interfaces import Backbone, Features, Size
from .manifest import SHARD, compare, identity
from .shards import Shard, shard_path

_OPEN = 64  # files kept open


class FeatureCache:
    """Reads what `plan_features(...).run()` wrote. Cheap to copy to workers: files are opened where they are read.

    Args:
        folder, backbone, images, size, layers, name: as given to `plan_features`.

    Attributes:
        size: (H, W) of the images as encoded, before padding to the stride. padded: after it.
        layers: indices of the maps that are there.

    Raises:
        ConfigError: stale: another backbone, weights, size, layers or images; what differs is named.
        FileError: there is no cache, or it is not complete.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        backbone: Backbone,
        images: ImageSet,
        size: Size,
        layers: Sequence[int] = (-1,),
        *,
        name: str | None = None,
    ) -> None:
        self.folder = Path(folder)
        manifest = identity(backbone, images, size, layers, name)
        if not compare(self.folder, manifest):
            raise FileError(f"{self.folder} holds no feature cache; make one with plan_features(...).run()")
        self._count = len(images)
        there = [number for number in range(-(-self._count // SHARD)) if shard_path(self.folder, number).exists()]
        done = sum(min(SHARD, self._count - number * SHARD) for number in there)
        if done < self._count:
            raise FileError(
                f"The feature cache {self.folder} has {done} of {self._count} images; run its plan again to finish it"
            )
        self.size: Size = (size[0], size[1])
        self.padded: Size = (manifest["padded"][0], manifest["padded"][1])
        self.layers: list[int] = manifest["layers"]
        self._depth: int = manifest["maps"]
        self._weights: str = manifest["weights"]
        self._open: OrderedDict[int, Shard] = OrderedDict()

    def __len__(self) -> int:
        return self._count

    def tensors(self, index: int) -> dict[str, Tensor]:
        """What is kept of one image: "map<layer>" float16 [C, h, w], and "cls" [C] where the backbone has one.

        Raises:
            InputError: no such image.
            FileError, ConfigError: its file is damaged, or of other weights.
        """
        if not 0 <= index < self._count:
            raise InputError(f"Image {index} asked for; the cache has 0 to {self._count - 1}")
        shard = self._shard(index // SHARD)
        return {key: shard.read(key, index % SHARD)[0] for key in shard.shapes}

    def batch(self, indices: Sequence[int]) -> Features:
        """Features [B, ...] float32 of several images, as `features` makes them."""
        rows = [self.tensors(index) for index in indices]
        return self.features({key: torch.stack([row[key] for row in rows]) for key in rows[0]})

    def features(self, tensors: dict[str, Tensor]) -> Features:
        """Features from stacked `tensors`: maps that were not kept have no channels, so that indices stay the same."""
        some = next(iter(tensors.values()))
        nothing = torch.empty(len(some), 0, 1, 1, device=some.device)
        maps = tuple(
            tensors[f"map{layer}"].float() if layer in self.layers else nothing for layer in range(self._depth)
        )
        cls = tensors.get("cls")
        return Features(maps, None if cls is None else cls.float(), self.padded)

    def _shard(self, number: int) -> Shard:
        shard = self._open.get(number)
        if shard is None:
            shard = self._open[number] = Shard(shard_path(self.folder, number))
            if shard.weights != self._weights:
                raise ConfigError(f"{shard.path} is stale: it was made with other weights; delete it and run its plan")
            if len(self._open) > _OPEN:
                self._open.popitem(last=False)
        self._open.move_to_end(number)
        return shard

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}  # mapped files do not travel
