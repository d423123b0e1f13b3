"""plan_features: what is to be computed and how large it gets; Plan.run computes it, file by file."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.base import ImageSet
from ..errors import FileError, InputError
from ..files import new_file, write_json, write_tensors
from ..images import prepare
from ..interfaces import Backbone, Size
from .manifest import FILE, SHARD, compare, identity, shown
from .shards import Shard, shard_path


@dataclass
class Plan:
    """What is to be done.

    images: in the data set. left: of this process, not yet in the cache. bytes: about how many all processes will
    write. free: bytes of the disk.
    """

    images: int
    left: int
    bytes: int
    free: int
    _folder: Path
    _manifest: dict[str, Any]
    _missing: list[int]
    _set: ImageSet
    _backbone: Backbone
    _batch: int

    def run(self, progress: Callable[[int], object] | None = None) -> int:
        """Compute what is left; files that are complete are passed over. Returns the bytes written.

        Args:
            progress: called with the number of images just finished.

        Raises:
            FileError: an image cannot be read, or the disk is full or not writable; what is finished stays.
            InputError: maps that float16 cannot hold.
        """
        written = 0
        if not compare(self._folder, self._manifest):
            write_json(self._folder / FILE, self._manifest)
        for number in self._missing:
            tensors = self._compute(number, progress or (lambda images: None))
            path = shard_path(self._folder, number)
            with new_file(path, then=". Finished files are kept; run it again", shared=True) as partial:
                write_tensors(partial, tensors, {"weights": self._manifest["weights"]})
                written += partial.stat().st_size
        return written

    def _compute(self, number: int, progress: Callable[[int], object]) -> dict[str, Tensor]:
        indices = range(number * SHARD, min((number + 1) * SHARD, self.images))
        parts: dict[str, list[Tensor]] = {}
        for start in range(0, len(indices), self._batch):
            chosen = indices[start : start + self._batch]
            for key, value in _encode(self._backbone, self._set, chosen, self._manifest).items():
                parts.setdefault(key, []).append(value)
            progress(len(chosen))
        return {key: torch.cat(values) for key, values in parts.items()}


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
) -> Plan:
    """Plan a cache of the backbone's maps of every image, resized to one size. One image is computed for the estimate.

    Args:
        backbone: with its weights, on the device it is to run on.
        size: (H, W) the images are resized to; the maps are those of the next multiples of the stride.
        layers: which of the backbone's maps.
        name: of the backbone, as it will be named when the cache is read.
        batch: images at once.
        rank, world: this process, and how many share the files; each needs a plan of its own.

    Raises:
        ConfigError: the folder is a cache of something else; what differs is named.
        FileError: the disk has not the space, or the folder holds other files.
        InputError: no images, or a size, layer or batch that does not exist.
    """
    if batch < 1 or not 0 <= rank < world:
        raise InputError(f"batch={batch}, rank={rank}, world={world}: expected at least 1, and a rank below world")
    place = Path(folder)
    manifest = identity(backbone, images, size, layers, name)
    compare(place, manifest)
    expected = _encode(backbone, images, range(1), manifest)
    count = len(images)
    shards = range(-(-count // SHARD))
    missing = [n for n in shards if not _complete(shard_path(place, n), min(SHARD, count - n * SHARD), expected)]
    each = sum(value.numel() * value.element_size() for value in expected.values())
    free = shutil.disk_usage(_existing(place)).free
    size_left = each * sum(min(SHARD, count - n * SHARD) for n in missing)
    if size_left > free:
        raise FileError(
            f"The feature cache takes {size_left / 1e9:.2f} GB more; {place} has {free / 1e9:.2f} GB free. Fewer "
            "layers, a smaller size or another disk"
        )
    # by number, not by place in the list: other processes may have finished files before this one looked
    mine = [number for number in missing if number % world == rank]
    left = sum(min(SHARD, count - n * SHARD) for n in mine)
    return Plan(count, left, size_left, free, place, manifest, mine, images, backbone, batch)


@torch.no_grad()
def _encode(backbone: Backbone, images: ImageSet, indices: range, manifest: dict[str, Any]) -> dict[str, Tensor]:
    first = next(backbone.parameters(), None)
    device, dtype = (torch.device("cpu"), torch.float32) if first is None else (first.device, first.dtype)
    size = (manifest["size"][0], manifest["size"][1])
    stacked = torch.stack([shown(images[index].image, size) for index in indices]).to(device)
    training = backbone.training
    backbone.eval()
    try:
        features = backbone(prepare(stacked, backbone.mean, backbone.std, backbone.stride, dtype))
    finally:
        backbone.train(training)
    found = {f"map{layer}": features.maps[layer] for layer in manifest["layers"]}
    if features.cls is not None:
        found["cls"] = features.cls
    halves = {key: value.to(device="cpu", dtype=torch.float16).contiguous() for key, value in found.items()}
    for key, value in halves.items():
        if not bool(value.isfinite().all()):
            names = ", ".join(images.names[index] for index in indices)
            raise InputError(f"{key} of {names}: NaN, infinity or values beyond 65504 cannot be kept as float16")
    return halves


def _complete(path: Path, count: int, expected: dict[str, Tensor]) -> bool:
    if not path.exists():
        return False
    try:
        return Shard(path).shapes == {key: [count, *value.shape[1:]] for key, value in expected.items()}
    except FileError:  # damaged: computed again
        return False


def _existing(folder: Path) -> Path:
    there = folder.resolve()
    while not there.exists():
        there = there.parent
    return there
