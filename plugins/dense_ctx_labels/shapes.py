"""Shapes: what annotation tools store; and the label map that they give together."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from dense_ctx.errors import FileError, InputError, about
from dense_ctx.interfaces import Size

from .annotation import LabelArray
from .classes import Classes
from .raster import Mask, Points, draw, fill

Unlabelled: TypeAlias = Literal["background", "ignore"]
MAX_PIXELS = 1 << 28  # of an image whose size a file states: 16,384 x 16,384
_BEYOND = 1.0  # pixels that tools let a point lie outside of the image


@dataclass(frozen=True)
class Shape:
    """One shape of a file.

    kind: "area" for all pixels inside of `rings`; "mask" for those of a mask; "stroke" for a line or a point; "brush"
        for a mask that was painted, which may be a stroke or an area.
    rings: for an area, closed lines; for strokes, the lines; each [N, 2] of x and y in pixels.
    mask: its part of the image, from column and row `offset` on.
    """

    label: str
    kind: Literal["area", "mask", "stroke", "brush"]
    rings: tuple[Points, ...] = ()
    mask: Mask | None = None
    offset: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Painting:
    """How shapes become a label map.

    Args:
        unlabelled: what the pixels of no shape are. Left out: background beside areas and masks, ignored beside
            strokes, and refused where a file has both, or what was painted by brush. An image without any shape is not
            annotated: ignored.
        stroke_width: of lines and points that have none of their own, in pixels.
        order: where shapes overlap, the later one of the file lies on top ("file"), or the smaller one ("area").

    Raises:
        InputError: a value that is none of these.
    """

    unlabelled: Unlabelled | None = None
    stroke_width: float = 3.0
    order: Literal["file", "area"] = "file"

    def __post_init__(self) -> None:
        if self.unlabelled not in (None, "background", "ignore"):
            raise InputError(f"unlabelled is background or ignore; got {self.unlabelled!r}")
        if not isinstance(self.stroke_width, (int, float)) or not 0 < self.stroke_width <= 1000:
            raise InputError(f"stroke_width is above 0 and at most 1000 pixels; got {self.stroke_width!r}")
        if self.order not in ("file", "area"):
            raise InputError(f"order is file or area; got {self.order!r}")

    def paint(self, shapes: Sequence[Shape], size: Size, classes: Classes) -> LabelArray:
        """The label map [H, W] of an image's shapes.

        Raises:
            InputError: a name that is no class; a point outside of the image or NaN; pixels of no shape, and it is not
                clear what they are.
        """
        labels = np.zeros(size, dtype=classes.dtype)
        covered = np.zeros(size, dtype=bool)
        pieces = [(classes.id(shape.label), *self._pixels(shape, size)) for shape in shapes]
        if self.order == "area":
            pieces.sort(key=lambda piece: -int(piece[1].sum()))
        for value, mask, x, y in pieces:
            window = slice(y, y + mask.shape[0]), slice(x, x + mask.shape[1])
            labels[window][mask] = value
            covered[window] |= mask
        if not covered.all():
            labels[~covered] = self._rest({shape.kind for shape in shapes}, classes)
        return labels

    def _pixels(self, shape: Shape, size: Size) -> tuple[Mask, int, int]:
        if shape.mask is not None:
            (x, y), (height, width) = shape.offset, shape.mask.shape
            if x < 0 or y < 0 or x + width > size[1] or y + height > size[0]:
                raise InputError(
                    f"A mask of {shape.label!r} reaches from ({x}, {y}) to ({x + width}, {y + height}); the image is "
                    f"{size[1]} x {size[0]} (W x H)"
                )
            return shape.mask, x, y
        for ring in shape.rings:
            low, high = ring.min(0), ring.max(0)
            if not np.isfinite(ring).all():
                raise InputError(f"A shape of {shape.label!r} has a point that is NaN or infinite")
            if (low < -_BEYOND).any() or (high > np.array(size[::-1]) + _BEYOND).any():
                x, y = ring[np.argmax(np.maximum(-ring, ring - size[::-1]).max(1))]
                raise InputError(
                    f"A shape of {shape.label!r} has a point at ({x:.6g}, {y:.6g}), outside of the image of "
                    f"{size[1]} x {size[0]} (W x H)"
                )
        if shape.kind == "area":
            return fill(shape.rings, size)
        mask = np.zeros(size, dtype=bool)
        for line in shape.rings:
            mask |= draw(line, self.stroke_width, size)
        return mask, 0, 0

    def _rest(self, kinds: set[str], classes: Classes) -> int:
        """The value of pixels that no shape covers."""
        areas, strokes = bool(kinds & {"area", "mask"}), "stroke" in kinds
        if self.unlabelled is None and ("brush" in kinds or (areas and strokes)):
            what = "masks painted by brush" if "brush" in kinds else "areas and strokes"
            raise InputError(
                f"It has {what}, and pixels of no shape: they may be background or not annotated; say which: "
                "unlabelled=background or unlabelled=ignore"
            )
        if self.unlabelled == "ignore" or (self.unlabelled is None and not areas):
            return classes.ignore
        if classes.background is None:
            raise InputError(
                "It has pixels of no shape, and no class is called background: add that class, or say unlabelled=ignore"
            )
        return classes.background


def check_pixels(size: Size) -> None:
    """Refuse a size that no image has, before memory is taken for it."""
    if min(size) < 1 or size[0] * size[1] > MAX_PIXELS:
        raise InputError(f"An image of {size[0]} x {size[1]} (H x W); expected 1 to {MAX_PIXELS:,} pixels")


def points_of(values: Any, least: int = 1) -> Points:
    """Points [[x, y], ...] or [x, y, x, y, ...] of a file, [N, 2].

    Raises:
        FileError: they are not pairs of numbers, or fewer than `least`. InputError: NaN or infinity.
    """
    points = None
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        array = np.asarray(values)
        if array.dtype.kind in "iuf" and array.size % 2 == 0 and (array.ndim == 1 or array.shape[1:] == (2,)):
            points = array.reshape(-1, 2).astype(np.float64)
    if points is None or len(points) < least:
        raise FileError(f"points are at least {least} pairs of numbers; got {' '.join(str(values).split())[:80]}")
    if not np.isfinite(points).all():
        raise InputError("a point is NaN or infinite")
    return points


@contextlib.contextmanager
def place(file: object, what: str) -> Iterator[None]:
    """Errors of the block begin with the file, and the image or shape in it."""
    with about(f"{file}: {what}" if what else file):
        yield
