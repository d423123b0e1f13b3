"""Annotation: the label map of one image. AnnotationSet: those of many images, read one at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, overload

import numpy as np

from dense_ctx.errors import InputError
from dense_ctx.gateway import gateway
from dense_ctx.interfaces import Size

from .classes import Classes
from .references import checked_reference

LabelArray: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Picture: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True)
class Annotation:
    """The label map of one image.

    labels: integers [H, W], indices into `classes.names`, or `classes.ignore` where nothing is annotated; converted to
        `classes.dtype`, uint8 or uint16.
    image: path of the image relative to the folder of the images, with "/" as the separator.
    picture: returns the image, uint8 [H, W, 3], for formats that show it.

    Raises:
        InputError: another shape or dtype, an id without a class, an image path that leaves its folder.
    """

    labels: LabelArray
    classes: Classes
    image: str
    picture: Callable[[], Picture] | None = None

    @gateway
    def __post_init__(self) -> None:
        checked_reference(self.image)
        labels = np.asarray(self.labels)
        if labels.ndim != 2 or 0 in labels.shape or labels.dtype.kind not in "iu":
            raise InputError(f"{self.image}: labels are integers [H, W]; got {labels.dtype} {list(labels.shape)}")
        beyond = labels[((labels < 0) | (labels >= len(self.classes))) & (labels != self.classes.ignore)]
        if beyond.size:
            raise InputError(
                f"{self.image}: {beyond.size} pixels hold {', '.join(map(str, np.unique(beyond)[:5]))}; expected ids 0 "
                f"to {len(self.classes) - 1} of {len(self.classes)} classes, or {self.classes.ignore} for ignored ones"
            )
        object.__setattr__(self, "labels", labels.astype(self.classes.dtype, copy=False))


class AnnotationSet(Sequence[Annotation]):
    """Annotations of several images, each read when it is indexed.

    Args:
        classes: shared by all annotations.
        images: relative paths of the images, in order.
        read: returns the annotation of an index.
    """

    def __init__(self, classes: Classes, images: Sequence[str], read: Callable[[int], Annotation]) -> None:
        self.classes, self.images, self._read = classes, tuple(images), read

    def __len__(self) -> int:
        return len(self.images)

    @overload
    def __getitem__(self, index: int) -> Annotation: ...
    @overload
    def __getitem__(self, index: slice) -> list[Annotation]: ...
    def __getitem__(self, index: int | slice) -> Annotation | list[Annotation]:
        """An annotation, or a list for a slice.

        Raises:
            FileError, InputError: as `LabelFormat.open`. IndexError: no such index.
        """
        indices = range(len(self))[index]
        return self._one(indices) if isinstance(indices, int) else [self._one(one) for one in indices]

    @gateway
    def _one(self, index: int) -> Annotation:
        return self._read(index)


def check_size(size: Size, expected: Size | None, image: str) -> None:
    """Raise InputError if labels differ in size (H, W) from their image."""
    if expected is not None and tuple(size) != tuple(expected):
        raise InputError(
            f"The labels of {image} are {size[0]} x {size[1]} (H x W); the image is {expected[0]} x {expected[1]}: "
            "they belong to another copy of the image"
        )
