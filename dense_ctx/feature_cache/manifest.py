"""What the files of a cache were made with. Anything else is refused, and what differs is named."""

from __future__ import annotations

import hashlib
import json
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..data.base import ImageSet
from ..errors import ConfigError, FileError, InputError
from ..files import read_json, state_digest
from ..images import padded_size
from ..interfaces import Backbone, Size

FORMAT = 1
SHARD = 64  # images a file
FILE = "manifest.json"

_digests: weakref.WeakKeyDictionary[ImageSet, str] = weakref.WeakKeyDictionary()  # of open data sets, see _pixels


def shown(image: Tensor, size: Size) -> Tensor:
    """An image [3, H, W] as the backbone sees it, at `size`: bilinear, antialiased."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    small = functional.interpolate(image[None], size=size, mode="bilinear", align_corners=False, antialias=True)[0]
    return small.clamp(0, 1)


def identity(
    backbone: Backbone, images: ImageSet, size: Size, layers: Sequence[int], name: str | None
) -> dict[str, Any]:
    """Everything that decides the maps: backbone, weights, size, layers, images.

    Of the images, all names and the pixels of the first, middle and last one count: reading all of them would take as
    long as what the cache saves.

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
        "names": hashlib.sha256(json.dumps(list(images.names)).encode()).hexdigest(),
        "pixels": _pixels(images),
    }


def _pixels(images: ImageSet) -> str:
    """Digest of the first, middle and last image, read once for each data set: its samples come with targets, which
    may take longer to make than the maps of a small backbone."""
    found = _digests.get(images)
    if found is None:
        pixels = hashlib.sha256()
        for index in sorted({0, len(images) // 2, len(images) - 1}):
            image = images[index].image
            pixels.update(f"{list(image.shape)}".encode() + image.contiguous().view(torch.uint8).numpy().tobytes())
        found = _digests[images] = pixels.hexdigest()
    return found


def compare(folder: Path, wanted: Mapping[str, Any]) -> bool:
    """Whether the folder holds a cache of what is wanted; False where it holds nothing.

    Raises:
        ConfigError: it is a cache of something else; each value that differs is named.
        FileError: it holds other files, or its manifest cannot be read.
    """
    path = folder / FILE
    if not path.exists():
        if folder.exists() and (not folder.is_dir() or any(not p.name.startswith(".") for p in folder.iterdir())):
            raise FileError(f"{folder} exists and holds no feature cache; choose another folder")
        return False
    there = read_json(path)
    if not isinstance(there, dict):
        raise FileError(f"{path} is no manifest of a feature cache")
    differing = [
        f"{key}: {_short(there.get(key))} there, {_short(value)} now"
        for key, value in wanted.items()
        if there.get(key) != value
    ]
    if differing:
        raise ConfigError(
            f"The feature cache {folder} is stale: {'; '.join(differing)}. Ask for what it holds, or choose another "
            "folder"
        )
    return True


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:13]}...'"
