"""Feature cache: a frozen backbone's maps of a data set on disk, so that heads train without it (docs/maxa.md)."""

from __future__ import annotations

import hashlib
import os
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..device import processes, wait_for_everyone
from ..errors import ConfigError, FileError, InputError
from ..files import json_digest, state_digest
from ..gateway import gateway
from ..images import padded_size, prepare, resized, to_device
from ..interfaces import Backbone, Features, Size
from ..persistence.identity import Identity
from ..persistence.tensors import Spec
from ..progress import ahead, progress
from .base import ImageSet
from .cache import DiskCache, Shard, disk_space

if TYPE_CHECKING:
    from ..model import DenseModel

FORMAT = 1
SHARD = 64  # images a file

_digests: weakref.WeakKeyDictionary[ImageSet, str] = weakref.WeakKeyDictionary()  # of open data sets, see _pixels


class FeatureCache:
    """Reads what `fill_cache` wrote. Cheap to copy to workers: files are opened where they are read.

    Args:
        folder, backbone, images, size, layers, name: as given to `fill_cache`.

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
            raise FileError(f"{folder} holds no feature cache; make one with cache_features")
        self._shapes: dict[str, list[int]] = stored["tensors"]
        done = sum(count for name, count in _shards(self._count).items() if self._cache.path(name).exists())
        if done < self._count:
            raise FileError(f"The feature cache {folder} has {done} of {self._count} images; finish it: make it again")

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
            raise ConfigError(f"{shard.path} was made with other weights; delete it and make it again")
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


def cache_features(model: DenseModel, images: ImageSet, folder: str | os.PathLike[str], size: Size) -> FeatureCache:
    """Fill a feature cache, all processes together, with a progress bar on stderr; then open it.

    Args:
        model: with its weights, on the device where it runs. The maps are those that `Decoder.layers` names.
        images: resized to `size`, (H, W); the maps are those of the next multiples of the stride.
        folder: of these images alone; a second call computes what is missing.

    Raises:
        ConfigError: the folder is a cache of something else; the message names what differs.
        FileError: not enough space on the disk, it is not writable, or an image cannot be read.
        InputError: no images, or maps beyond the range of float16.
    """
    depth, layers = len(model.backbone.dims), model.decoder.layers
    indices = range(depth) if layers is None else sorted({layer % depth for layer in layers})
    name = None if model.model_config is None else model.model_config.backbone.name
    fill_cache(model.backbone, images, folder, size, indices, name=name)
    wait_for_everyone()
    return FeatureCache(folder, model.backbone, images, size, indices, name=name)


@gateway
def fill_cache(
    backbone: Backbone,
    images: ImageSet,
    folder: str | os.PathLike[str],
    size: Size,
    layers: Sequence[int] = (-1,),
    *,
    name: str | None = None,
    batch: int = 8,
) -> int:
    """Compute this process' share of what a cache lacks, file by file; after an interruption, call it again.

    Args:
        backbone: with its weights, on the device where it runs.
        size: (H, W) the images are resized to.
        layers: which of the backbone's maps.
        name: of the backbone; the same when the cache is read.
        batch: images at once.

    Returns:
        The bytes written.

    Raises:
        ConfigError: the folder is a cache of something else; the message names what differs.
        FileError: not enough space on the disk, the folder holds other files or is not writable, or an image cannot be
            read; finished files stay.
        InputError: no images; a size, layer or batch that does not exist; maps beyond the range of float16.
    """
    if batch < 1:
        raise InputError(f"batch={batch}: expected at least 1")
    settings = _settings(backbone, images, size, layers, name)
    cache = _disk_cache(folder, settings)
    cache.check()

    def stacked(indices: range) -> Tensor:
        return torch.stack([resized(images[index].image, size) for index in indices])

    one = _encode(backbone, stacked(range(1)), images.names[:1], settings)
    shapes = {key: list(value.shape[1:]) for key, value in one.items()}

    shards = enumerate(_shards(len(images)).items())
    missing = {number: count for number, (key, count) in shards if not cache.complete(key, _specs(shapes, count))}
    needed = sum(missing.values()) * sum(value.numel() * value.element_size() for value in one.values())
    disk_space(cache.folder, needed, "feature cache", "fewer layers, a smaller size or another disk")
    # by number, not by position in the list: other processes may have finished files already
    rank, world = processes()
    share = {number: count for number, count in missing.items() if number % world == rank}
    cache.claim({"tensors": shapes})
    size_on_disk, parts = 0, dict[str, list[Tensor]]()
    spans = [range(number * SHARD, number * SHARD + count) for number, count in share.items()]
    batches = [(span, span[at : at + batch]) for span in spans for at in range(0, len(span), batch)]
    with progress(None, sum(share.values()), "features") as bar:
        for (span, indices), pixels in zip(batches, ahead(lambda pair: stacked(pair[1]), batches), strict=True):
            for key, value in _encode(backbone, pixels, [images.names[i] for i in indices], settings).items():
                parts.setdefault(key, []).append(value)
            bar.update(len(indices))
            if indices.stop == span.stop:
                tensors, parts = {key: torch.cat(values) for key, values in parts.items()}, {}
                size_on_disk += cache.write(_shard_name(span.start // SHARD), tensors, {"weights": settings["weights"]})
    return size_on_disk


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
def _encode(backbone: Backbone, stacked: Tensor, names: Sequence[str], settings: dict[str, Any]) -> dict[str, Tensor]:
    first = next(backbone.parameters(), None)
    device, dtype = (torch.device("cpu"), torch.float32) if first is None else (first.device, first.dtype)
    training = backbone.training
    backbone.eval()
    try:
        features = backbone(prepare(to_device(stacked, device), backbone.mean, backbone.std, backbone.stride, dtype))
    finally:
        backbone.train(training)
    tensors = {f"map{layer}": features.maps[layer] for layer in settings["layers"]}
    if features.cls is not None:
        tensors["cls"] = features.cls
    halves = {key: value.to(device="cpu", dtype=torch.float16).contiguous() for key, value in tensors.items()}
    for key, value in halves.items():
        if not bool(value.isfinite().all()):
            raise InputError(f"{key} of {', '.join(names)}: NaN, infinity or values beyond 65504 do not fit float16")
    return halves
