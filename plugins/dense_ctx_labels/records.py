"""ShapeFormat: a format whose files hold shapes with names."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from dense_ctx.errors import InputError, about
from dense_ctx.interfaces import Size

from .base import Annotation, AnnotationSet, LabelFormat, Source
from .classes import BACKGROUND_NAMES, IGNORE_NAME, Classes, Colour, with_background
from .contours import regions
from .raster import Points
from .shapes import Painting, Shape, Unlabelled, place


@dataclass(frozen=True)
class Record:
    """One image of a file.

    image: its reference. size: (H, W) as the file states it. shapes: reads its shapes. file: for messages.
    """

    image: str
    size: Size | None
    shapes: Callable[[], list[Shape]]
    file: Path


@dataclass(frozen=True)
class Records:
    """All images of a file or folder; names of classes in order, and the colours that it gives them."""

    records: Sequence[Record]
    names: tuple[str, ...]
    colours: Mapping[str, Colour] = field(default_factory=dict)


class ShapeFormat(LabelFormat):
    """Shapes to label maps and back.

    Args:
        unlabelled, stroke_width, order: how shapes become a label map, see `dense_ctx_labels.shapes.Painting`. Written
            with unlabelled="ignore", ignored pixels are left out and background is a shape; otherwise background is
            left out, and ignored pixels are shapes called `__ignore__`.
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
        """The images of a file or folder. Errors as `open`."""

    def load(self, source: Source) -> AnnotationSet:
        """Read the shapes of an image when it is asked for."""
        content = self.records(source)
        with about(source.path):
            classes = Classes(with_background(content.names) if source.classes is None else source.classes)
        known = {name: colour for name, colour in content.colours.items() if name in classes.names}
        classes = classes.with_colours(known)

        def annotation(index: int) -> Annotation:
            record = content.records[index]
            with place(record.file, record.image if self.scope == "data set" else ""):
                size = record.size or source.size
                if size is None and source.images is not None:
                    size = source.images.size(record.image)
                if size is None:
                    raise InputError("it does not say how large the image is; give images=FOLDER, or size=(H, W)")
                shapes = record.shapes()
                if not shapes and self.painting.unlabelled is None:
                    warnings.warn(
                        f"{record.image} has no shapes, so that all of it counts as not annotated; with "
                        "unlabelled=background it is all background",
                        stacklevel=4,
                    )
                return source.checked(self.painting.paint(shapes, size, classes), classes, record.image)

        return AnnotationSet(classes, [record.image for record in content.records], annotation)

    def shown(self, annotation: Annotation) -> tuple[int | None, Callable[[int], str]]:
        """The id that is left out when it is written, and the names of the others."""
        classes = annotation.classes
        skip = classes.ignore if self.painting.unlabelled == "ignore" else classes.background
        if skip is not None and bool((annotation.labels == skip).all()):
            skip = None  # without a shape it would count as not annotated
        return skip, lambda value: IGNORE_NAME if value == classes.ignore else classes.names[value]

    def polygons(self, annotation: Annotation) -> Iterable[tuple[str, Points]]:
        """Name and ring of each region, in the order to draw them."""
        skip, name = self.shown(annotation)
        for value, ring in regions(annotation.labels, skip):
            yield name(value), ring


def order_of_names(names: Iterable[str]) -> tuple[str, ...]:
    """Names that stand in no order of their own: sorted, background first."""
    return tuple(sorted(set(names), key=lambda name: (name.lower() not in BACKGROUND_NAMES, name)))
