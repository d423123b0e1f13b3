"""DIP's data set: a query, a positive that shares a pseudo-class with it, and their cropped label maps."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dense_ctx import images as image_io
from dense_ctx.errors import ConfigError, FileError, InputError
from dense_ctx.interfaces import SeededDataset

from .task_files import read_pairs, read_pseudo_labels

_KEYS = ("images", "labels", "pairs", "classes")


class TaskPairs(SeededDataset):
    """Pairs of pseudo-labelled images.

    Args:
        name: of the data set, for messages.
        images, labels: folders; `labels` holds NAME.png, STEM.png, STEM.npy or STEM.pt for the image NAME.
        pairs: (query, positive) names, relative to `images`.
        classes: number of pseudo-classes.
        size: side of the crops.
        scale: range of a crop's share of the image's area.
        crops: use another crop of the query as positive.
        resize: in place of a random crop, the square of `size` in the middle of the image at this short side. A square
            .pt file, the form of the masks published with DIP, then holds the labels of that square, as do square
            labels of an image that is not square.
    """

    def __init__(
        self,
        name: str,
        images: Path,
        labels: Path,
        pairs: list[tuple[str, str]],
        classes: int,
        size: int = 224,
        scale: tuple[float, float] = (0.4, 1.0),
        crops: bool = False,
        resize: int | None = None,
    ) -> None:
        if not images.is_dir() or not labels.is_dir():
            raise FileError(f"{name}: {labels if images.is_dir() else images} is not a folder")
        self.name, self.images, self.labels, self.classes = name, images, labels, classes
        self.size, self.scale, self.crops, self.resize = size, scale, crops, resize
        # with crops the positives in the list are unused: each query occurs once
        self.pairs = [(query, query) for query in dict.fromkeys(query for query, _ in pairs)] if crops else pairs
        self._check_files()

    @classmethod
    def open(
        cls,
        data: Any,
        size: int = 224,
        scale: tuple[float, float] = (0.4, 1.0),
        crops: bool = False,
        resize: int | None = None,
    ) -> TaskPairs:
        """Open a folder that `dense-ctx pseudo-label` wrote, or {images, labels, pairs, classes} of your own.

        Raises:
            FileError: files are missing, or there is no pair.
            ConfigError: `data` is neither.
        """
        if isinstance(data, (str, os.PathLike)):
            root = Path(data)
            from .manifest import read_manifest

            manifest = read_manifest(root)
            if not (root / "pairs.jsonl").is_file():
                raise FileError(f"{root} has no pairs.jsonl yet: run `dense-ctx pseudo-label` to its end")
            images, classes = Path(manifest["segment"]["images"]), int(manifest["cluster"]["classes"])
            labels, pairs, name = root / "labels", root / "pairs.jsonl", str(root)
        elif isinstance(data, Mapping) and {"images", "labels", "pairs", "classes"} == set(data):
            images, labels, pairs = (Path(data[key]) for key in _KEYS[:3])
            classes, name = int(data["classes"]), str(pairs)
        else:
            raise ConfigError(
                "DIP's data is the folder that `dense-ctx pseudo-label` wrote, or a mapping of "
                f"{', '.join(_KEYS)}; got {data!r}"
            )
        return cls(name, images, labels, read_pairs(pairs), classes, size, scale, crops, resize)

    def _check_files(self) -> None:
        """Refuse lists that name a missing image or one without labels; each folder is listed once."""
        listed: dict[Path, set[str]] = {}

        def exists(path: Path) -> bool:
            if path.parent not in listed:
                listed[path.parent] = set(os.listdir(path.parent)) if path.parent.is_dir() else set()
            return path.name in listed[path.parent]

        names = dict.fromkeys(name for pair in self.pairs for name in pair)
        missing = [name for name in names if not exists(self.images / name)]
        if missing:
            raise FileError(
                f"{self.name} names {len(missing)} images that are not in {self.images}, the first {missing[0]!r}. "
                "Names are relative to the folder of images"
            )
        bare = [name for name in names if not any(map(exists, self._candidates(name)))]
        if bare:
            endings = ", ".join(path.name for path in self._candidates(bare[0]))
            raise FileError(f"No labels for {bare[0]} and {len(bare) - 1} more: {self.labels} has none of {endings}")

    def __len__(self) -> int:
        return len(self.pairs)

    def sample(self, index: int, seed: int) -> dict[str, Any]:
        """Query and positive [3, S, S], their labels int64 [S, S], a seed for the distractors, and the query's name."""
        query, positive = self.pairs[index]
        generator = random.Random(seed)
        sample: dict[str, Any] = {"seed": torch.tensor(generator.getrandbits(40)), "name": query}
        for role, name in (("query", query), ("positive", positive)):
            sample[role], sample[f"{role}_labels"] = self._cropped(name, generator)
        return sample

    def _cropped(self, name: str, generator: random.Random) -> tuple[Tensor, Tensor]:
        image, path = image_io.load(self.images / name), self._label_file(name)
        labels = read_pseudo_labels(path, self.classes)
        ratio = (image.shape[-2] / image.shape[-1]) / (labels.shape[-2] / labels.shape[-1])
        alike = 0.9 < ratio < 1.1
        of_middle = (
            self.resize is not None
            and labels.shape[0] == labels.shape[1]
            and (not alike or path.suffix == ".pt")  # which the published code brings to `size` and never cuts
        )
        if not alike and not of_middle:
            raise InputError(
                f"{name} is {list(image.shape[-2:])} and its labels {list(labels.shape)}: they do not belong together"
                + (" (labels of its middle square want resize=256)" if labels.shape[0] == labels.shape[1] else "")
            )
        if self.resize is not None:
            picture, cropped = _middle(image, labels, self.resize, self.size)
            return picture, image_io.nearest(labels, (self.size, self.size)) if of_middle else cropped
        share = generator.uniform(*self.scale)
        aspect = math.exp(generator.uniform(-math.log(4 / 3), math.log(4 / 3)))
        area = share * image.shape[-2] * image.shape[-1]
        height = min(1.0, math.sqrt(area / aspect) / image.shape[-2])
        width = min(1.0, math.sqrt(area * aspect) / image.shape[-1])
        box = (generator.uniform(0, 1 - height), generator.uniform(0, 1 - width), height, width)
        flip = generator.random() < 0.5
        picture = _window(image, box)
        side = (self.size, self.size)
        picture = functional.interpolate(picture[None], side, mode="bilinear", align_corners=False, antialias=True)[0]
        cropped = _nearest(labels, box, self.size)
        if flip:
            picture, cropped = picture.flip(-1), cropped.flip(-1)
        return picture.clamp(0, 1), cropped

    def _candidates(self, name: str) -> list[Path]:
        stem = Path(name).with_suffix("")
        return [self.labels / file for file in (f"{name}.png", f"{stem}.png", f"{stem}.npy", f"{stem}.pt")]

    def _label_file(self, name: str) -> Path:
        for path in self._candidates(name):
            if path.is_file():
                return path
        raise FileError(f"No labels for {name}: {', '.join(map(str, self._candidates(name)))} are all gone")


def _middle(image: Tensor, labels: Tensor, resize: int, size: int) -> tuple[Tensor, Tensor]:
    """Both at the short side `resize`, then the square of `size` in the middle: torchvision's Resize and CenterCrop."""
    height, width = image.shape[-2:]
    short = min(height, width)
    full = (resize * height // short, resize * width // short)
    picture = functional.interpolate(image[None], full, mode="bilinear", align_corners=False, antialias=True)[0]
    top, left = round((full[0] - size) / 2), round((full[1] - size) / 2)
    cut = (..., slice(top, top + size), slice(left, left + size))
    return picture[cut].clamp(0, 1), image_io.nearest(labels, full)[cut]


Box = tuple[float, float, float, float]  # top, left, height, width, as shares of the image


def _edges(box: Box, size: tuple[int, int]) -> tuple[int, int, int, int]:
    top, left = round(box[0] * size[0]), round(box[1] * size[1])
    return top, left, max(1, round(box[2] * size[0])), max(1, round(box[3] * size[1]))


def _window(image: Tensor, box: Box) -> Tensor:
    top, left, height, width = _edges(box, (image.shape[-2], image.shape[-1]))
    return image[:, top : top + height, left : left + width]


def _nearest(labels: Tensor, box: Box, side: int) -> Tensor:
    """The labels under the centres of the crop's pixels; the label map may be coarser than the image."""
    position = (torch.arange(side, dtype=torch.float64) + 0.5) / side
    rows = ((box[0] + position * box[2]) * labels.shape[0]).long().clamp_max(labels.shape[0] - 1)
    columns = ((box[1] + position * box[3]) * labels.shape[1]).long().clamp_max(labels.shape[1] - 1)
    return labels[rows][:, columns]
