"""Feature cache: a frozen backbone's maps of a data set on disk, so that heads train without running it.

from dense_ctx.data.features import FeatureCache, plan_features
plan = plan_features(model.backbone, train, "cache/dinov2-b14", (518, 518), name="dinov2-b14")
print(plan.bytes, plan.free)
plan.run(progress=bar.update)
cache = FeatureCache("cache/dinov2-b14", model.backbone, train, (518, 518), name="dinov2-b14")
cache.batch([3, 17])    # Features of two images
"""

from __future__ import annotations

import hashlib
import os
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError, FileError, InputError
from ..files import json_digest, state_digest
from ..gateway import gateway
from ..images import padded_size, prepare, resized
from ..interfaces import Backbone, Features, Size
from ..persistence.identity import Identity
from ..persistence.tensors import Spec
from .base import ImageSet
from .cache import DiskCache, Shard, disk_space

FORMAT = 1
SHARD = 64  # images a file

_digests: weakref.WeakKeyDictionary[ImageSet, str] = weakref.WeakKeyDictionary()  # of open data sets, see _pixels


class FeatureCache:
    """Reads what `plan_features(...).run()` wrote. Cheap to copy to workers: files are opened where they are read.

    Args:
        folder, backbone, images, size, layers, name: as given to `plan_features`.

    Attributes:
        size: (H, W) of the images as encoded, before padding to the stride. padded: after it.
        layers: indices of the maps that are cached.

    Raises:
        ConfigError: it is of another backbone, weights, size, layers or images; the message names what differs.
        FileError: there is no cache, or it is not complete.
    """

    @gateway
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
        settings = _settings(backbone, images, size, layers, name)
        self._cache = _disk_cache(folder, settings)
        self._count: int = settings["images"]
        self.size: Size = (size[0], size[1])
        self.padded: Size = (settings["padded"][0], settings["padded"][1])
        self.layers: list[int] = settings["layers"]
        stored = self._cache.check()
        if stored is None:
            raise FileError(f"{folder} holds no feature cache; make one with plan_features(...).run()")
        self._shapes: dict[str, list[int]] = stored["tensors"]
        done = sum(count for name, count in _shards(self._count).items() if self._cache.path(name).exists())
        if done < self._count:
            raise FileError(
                f"The feature cache {folder} has {done} of {self._count} images; run its plan again to finish it"
            )

    def __len__(self) -> int:
        return self._count

    @gateway
    def tensors(self, index: int) -> dict[str, Tensor]:
        """The cached tensors of one image: "map<layer>" float16 [C, h, w], and "cls" [C] where the backbone has one.

        Raises:
            InputError: no such image.
            FileError, ConfigError: its file is damaged, or computed with other weights.
        """
        if not 0 <= index < self._count:
            raise InputError(f"Image {index} asked for; the cache has 0 to {self._count - 1}")
        number = index // SHARD
        shard = self._cache.shard(_shard_name(number))
        shard.require(_specs(self._shapes, min(SHARD, self._count - number * SHARD)))
        if shard.metadata.get("weights") != self._cache.settings["weights"]:
            raise ConfigError(f"{shard.path} was made with other weights; delete it and run its plan")
        return {key: shard.row(key, index % SHARD) for key in shard.specs}

    @gateway
    def batch(self, indices: Sequence[int]) -> Features:
        """Features [B, ...] float32 of several images; see `features`."""
        rows = [self.tensors(index) for index in indices]
        return self.features({key: torch.stack([row[key] for row in rows]) for key in rows[0]})

    def features(self, tensors: dict[str, Tensor]) -> Features:
        """Features from stacked `tensors`; maps that are not cached have no channels, so that indices stay the same."""
        first = next(iter(tensors.values()))
        empty = torch.empty(len(first), 0, 1, 1, device=first.device)
        depth = self._cache.settings["maps"]
        maps = tuple(tensors[f"map{layer}"].float() if layer in self.layers else empty for layer in range(depth))
        cls = tensors.get("cls")
        return Features(maps, None if cls is None else cls.float(), self.padded)


@dataclass
class FeaturePlan:
    """What remains to be computed.

    images: in the data set. left: this process' images that are not in the cache. bytes: estimate of what all processes
    will write. free: bytes free on the disk.
    """

    images: int
    left: int
    bytes: int
    free: int
    _cache: DiskCache[Shard]
    _missing: list[int]
    _set: ImageSet
    _backbone: Backbone
    _batch: int
    _shapes: dict[str, list[int]]

    @gateway
    def run(self, progress: Callable[[int], object] | None = None) -> int:
        """Compute what is left, file by file; after an interruption, plan again. Returns the bytes written.

        Args:
            progress: called with the number of images just finished.

        Raises:
            FileError: an image cannot be read, or the disk is full or not writable; finished files stay.
            InputError: maps beyond the range of float16.
        """
        self._cache.claim({"tensors": self._shapes})
        metadata = {"weights": self._cache.settings["weights"]}
        size_on_disk = 0
        for number in self._missing:
            tensors = self._compute(number, progress or (lambda images: None))
            size_on_disk += self._cache.write(_shard_name(number), tensors, metadata)
        return size_on_disk

    def _compute(self, number: int, progress: Callable[[int], object]) -> dict[str, Tensor]:
        indices = range(number * SHARD, min((number + 1) * SHARD, self.images))
        parts: dict[str, list[Tensor]] = {}
        for start in range(0, len(indices), self._batch):
            batch = indices[start : start + self._batch]
            for key, value in _encode(self._backbone, self._set, batch, self._cache.settings).items():
                parts.setdefault(key, []).append(value)
            progress(len(batch))
        return {key: torch.cat(values) for key, values in parts.items()}


@gateway
def plan_features(
    backbone: Backbone,
    images: ImageSet,
    folder: str | os.PathLike[str],
    size: Size,
    layers: Sequence[int] = (-1,),
    *,
    name: str | None = None,
    batch: int = 8,
    rank: int = 0,
    world: int = 1,
) -> FeaturePlan:
    """Plan a cache of the backbone's maps of every image, resized to one size. Encodes one image for the estimate.

    Args:
        backbone: with its weights, on the device where it runs.
        size: (H, W) the images are resized to; the maps are those of the next multiples of the stride.
        layers: which of the backbone's maps.
        name: of the backbone; the same when the cache is read.
        batch: images at once.
        rank, world: index of this process, and number of processes; each makes its own plan.

    Raises:
        ConfigError: the folder is a cache of something else; the message names what differs.
        FileError: not enough space on the disk, or the folder holds other files.
        InputError: no images, or a size, layer or batch that does not exist.
    """
    if batch < 1 or not 0 <= rank < world:
        raise InputError(f"batch={batch}, rank={rank}, world={world}: expected at least 1, and a rank below world")
    settings = _settings(backbone, images, size, layers, name)
    cache = _disk_cache(folder, settings)
    cache.check()
    one = _encode(backbone, images, range(1), settings)
    shapes = {key: list(value.shape[1:]) for key, value in one.items()}

    shards = enumerate(_shards(len(images)).items())
    missing = {number: count for number, (key, count) in shards if not cache.complete(key, _specs(shapes, count))}
    total = sum(missing.values()) * sum(value.numel() * value.element_size() for value in one.values())
    free = disk_space(cache.folder, total, "feature cache", "fewer layers, a smaller size or another disk")
    # by number, not by position in the list: other processes may have finished files already
    shards_here = [number for number in missing if number % world == rank]
    left = sum(missing[number] for number in shards_here)
    return FeaturePlan(len(images), left, total, free, cache, shards_here, images, backbone, batch, shapes)


def _specs(shapes: dict[str, list[int]], count: int) -> dict[str, Spec]:
    """Of the shard of `count` images."""
    return {key: (torch.float16, (count, *shape)) for key, shape in shapes.items()}


def _disk_cache(folder: str | os.PathLike[str], settings: dict[str, Any]) -> DiskCache[Shard]:
    return DiskCache(Identity(Path(folder) / "manifest.json", "feature cache"), settings, Shard)


def _shard_name(number: int) -> str:
    return f"features-{number:05d}"


def _shards(images: int) -> dict[str, int]:
    """The number of images in each shard."""
    return {_shard_name(number): min(SHARD, images - number * SHARD) for number in range(-(-images // SHARD))}


def _settings(
    backbone: Backbone, images: ImageSet, size: Size, layers: Sequence[int], name: str | None
) -> dict[str, Any]:
    """Everything that determines the maps: backbone, weights, size, layers, images.

    The images enter by all names and the pixels of the first, middle and last one: reading all of them would cost what
    the cache saves.

    Raises:
        InputError: no images, a size below 1, or maps the backbone does not have.
    """
    count, depth = len(images), len(backbone.dims)
    if not count:
        raise InputError("The data set holds no image: there is nothing to cache")
    if len(size) != 2 or min(size) < 1:
        raise InputError(f"size={size} is (H, W), each at least 1")
    if not layers or any(not -depth <= layer < depth for layer in layers):
        raise InputError(f"layers={list(layers)}: the backbone has maps 0 to {depth - 1} (or -{depth} to -1)")
    return {
        "format": FORMAT,
        "backbone": name or type(backbone).__name__,
        "weights": state_digest(backbone.state_dict()),
        "size": list(size),
        "padded": list(padded_size(size, backbone.stride)),
        "layers": [layer % depth for layer in layers],
        "maps": depth,
        "dtype": "float16",
        "shard": SHARD,
        "images": count,
        "names": json_digest(list(images.names)),
        "pixels": _pixels(images),
    }


def _pixels(images: ImageSet) -> str:
    """Digest of the first, middle and last image; read once a data set, as reading makes targets too, which is slow."""
    digest = _digests.get(images)
    if digest is None:
        pixels = hashlib.sha256()
        for index in sorted({0, len(images) // 2, len(images) - 1}):
            image = images[index].image
            pixels.update(f"{list(image.shape)}".encode() + image.contiguous().view(torch.uint8).numpy().tobytes())
        digest = _digests[images] = pixels.hexdigest()
    return digest


@torch.no_grad()
def _encode(backbone: Backbone, images: ImageSet, indices: range, settings: dict[str, Any]) -> dict[str, Tensor]:
    first = next(backbone.parameters(), None)
    device, dtype = (torch.device("cpu"), torch.float32) if first is None else (first.device, first.dtype)
    size = (settings["size"][0], settings["size"][1])
    stacked = torch.stack([resized(images[index].image, size) for index in indices]).to(device)
    training = backbone.training
    backbone.eval()
    try:
        features = backbone(prepare(stacked, backbone.mean, backbone.std, backbone.stride, dtype))
    finally:
        backbone.train(training)
    tensors = {f"map{layer}": features.maps[layer] for layer in settings["layers"]}
    if features.cls is not None:
        tensors["cls"] = features.cls
    halves = {key: value.to(device="cpu", dtype=torch.float16).contiguous() for key, value in tensors.items()}
    for key, value in halves.items():
        if not bool(value.isfinite().all()):
            names = ", ".join(images.names[index] for index in indices)
            raise InputError(f"{key} of {names}: NaN, infinity or values beyond 65504 do not fit float16")
    return halves
