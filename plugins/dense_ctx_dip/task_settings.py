"""Settings of the tasks, and the images that they are created from."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from dense_ctx import images
from dense_ctx.config import Part
from dense_ctx.errors import FileError, InputError
from dense_ctx.images import resized

from .kmeans import Engine

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


@dataclass(frozen=True)
class TaskSettings:
    """How tasks are made.

    segmenter: a registered one, with its arguments. side: short side of the images, pixels (each side is rounded to
    the backbone's stride). classes: pseudo-classes. subset: images whose segments k-means sees, at most. iterations,
    seed, kmeans: of k-means. neighbours: nearest images tried as positives. shared: a class must cover more than this
    share of both images of a pair.
    """

    segmenter: Part = field(default_factory=lambda: Part("ncut"))
    side: int = 448
    classes: int = 1000
    subset: int = 200_000
    iterations: int = 20
    seed: int = 0
    kmeans: Engine = "auto"
    neighbours: int = 5
    shared: float = 0.05

    def __post_init__(self) -> None:
        numbers = (self.side, self.classes, self.subset, self.iterations, self.neighbours)
        if min(numbers) < 1 or not 0 <= self.shared < 1 or self.classes > 65535:
            raise InputError(
                f"side={self.side}, classes={self.classes}, subset={self.subset}, iterations={self.iterations}, "
                f"neighbours={self.neighbours}: from 1 (classes to 65535); shared={self.shared}: within [0, 1)"
            )


def find_images(root: Path) -> list[str]:
    """Names of all images under a folder, relative to it, in order; hidden files left out.

    Raises:
        FileError: no folder, or no image in it.
    """
    if not root.is_dir():
        raise FileError(f"{root} is no folder; expected one of images")
    names = []
    for folder, inside, files in os.walk(root, followlinks=True):
        inside[:] = [name for name in inside if not name.startswith(".")]
        where = Path(folder).relative_to(root)
        names += [(where / f).as_posix() for f in files if not f.startswith(".") and f.lower().endswith(SUFFIXES)]
    if not names:
        raise FileError(f"{root} holds no images ({', '.join(SUFFIXES)})")
    return sorted(names)


def read_image(path: Path, side: int, stride: int) -> Tensor:
    """[3, H, W] with a short side of about `side` pixels, both multiples of the stride.

    Raises:
        FileError, InputError: as `dense_ctx.images.load`.
    """
    image = images.load(path)
    size = (image.shape[-2], image.shape[-1])
    scale = side / min(size)
    height, width = (max(stride, round(length * scale / stride) * stride) for length in size)
    return resized(image, (height, width))
