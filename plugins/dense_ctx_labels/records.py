"""ShapeFormat: base of the formats that store named shapes."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from dense_ctx.errors import InputError, about
from dense_ctx.interfaces import Size

from .annotation import Annotation, AnnotationSet
from .base import LabelFormat, Source
from .classes import BACKGROUND_NAMES, IGNORE_NAME, Classes, Colour, with_background
from .contours import regions
from .raster import Mask, Points
from .shapes import Painting, Shape, Unlabelled, check_pixels, error_context


@dataclass(frozen=True)
class Record:
    """One image of a file.

    image: its relative path. size: (H, W) as the file states it. shapes: reads its shapes. file: for messages.
    """

    image: str
    size: Size | None
    shapes: Callable[[], list[Shape]]
    file: Path


@dataclass(frozen=True)
class Records:
    """All images of a file or folder; class names in order, and their colours if stated."""

    records: Sequence[Record]
    names: tuple[str, ...]
    colours: Mapping[str, Colour] = field(default_factory=dict)


class ShapeFormat(LabelFormat):
    """Converts shapes to label maps and back.

    Args:
        unlabelled, stroke_width, order: how shapes become a label map, see `dense_ctx_labels.shapes.Painting`. When
            writing with unlabelled="ignore", background is a shape and ignored pixels have none; otherwise background
            has none, and ignored pixels are shapes called `__ignore__`.
    """

    def __init__(
        self,
        unlabelled: Unlabelled | None = None,
        stroke_width: float = 3.0,
        order: Literal["file", "area"] = "file",
    ) -> None:
        self.painting = Painting(unlabelled, stroke_width, order)

    @abstractmethod
    def records(self, source: Source) -> Records:
        """List the images of a file or folder; errors as `open`."""

    def load(self, source: Source) -> AnnotationSet:
        """List the images; the shapes of one are read when its annotation is indexed."""
        content = self.records(source)
        with about(source.path):
            classes = Classes(with_background(content.names) if source.classes is None else source.classes)
        colours = {name: colour for name, colour in content.colours.items() if name in classes.names}
        classes = classes.with_colours(colours)

        def annotation(index: int) -> Annotation:
            record = content.records[index]
            with error_context(record.file, record.image if self.scope == "data set" else ""):
                size = record.size or source.size
                if size is None and source.images is not None:
                    size = source.images.size(record.image)
                if size is None:
                    raise InputError("it does not state the image's size; give images=FOLDER or size=(H, W)")
                check_pixels(size)
                shapes = record.shapes()
                if not shapes and self.painting.unlabelled is None:
                    warnings.warn(
                        f"{record.image} has no shapes, so all of it is treated as not annotated; with "
                        "unlabelled=background it is all background",
                        stacklevel=4,
                    )
                return source.checked(self.painting.paint(shapes, size, classes), classes, record.image)

        return AnnotationSet(classes, [record.image for record in content.records], annotation)

    def shown(self, annotation: Annotation) -> tuple[int | None, Callable[[int], str]]:
        """The id that is not written, and a function from the other ids to their names."""
        classes = annotation.classes
        skip = classes.ignore if self.painting.unlabelled == "ignore" else classes.background
        if skip is not None and bool((annotation.labels == skip).all()):
            skip = None  # an image without any shape would be read as not annotated
        return skip, lambda value: IGNORE_NAME if value == classes.ignore else classes.names[value]

    def polygons(self, annotation: Annotation) -> Iterable[tuple[str, Points]]:
        """Name and ring of each connected region."""
        skip, name = self.shown(annotation)
        for value, ring in regions(annotation.labels, skip):
            yield name(value), ring

    def masks(self, annotation: Annotation) -> Iterable[tuple[str, Mask, tuple[int, int]]]:
        """Name, mask and offset of each class: the mask of its bounding box, and the box's first column and row."""
        skip, name = self.shown(annotation)
        for value in np.unique(annotation.labels):
            if value != skip:
                mask = annotation.labels == value
                y, x = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
                yield name(int(value)), mask[y[0] : y[-1] + 1, x[0] : x[-1] + 1], (int(x[0]), int(y[0]))


def order_of_names(names: Iterable[str]) -> tuple[str, ...]:
    """Sort names that have no order of their own: background first, then alphabetically."""
    return tuple(sorted(set(names), key=lambda name: (name.lower() not in BACKGROUND_NAMES, name)))


def mask_in(mask: Mask, offset: tuple[int, int], size: Size) -> Mask:
    """Place a mask at column and row `offset` in an empty mask of the image's size (H, W)."""
    whole = np.zeros(size, dtype=bool)
    whole[offset[1] : offset[1] + mask.shape[0], offset[0] : offset[0] + mask.shape[1]] = mask
    return whole
