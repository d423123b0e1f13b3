"""Shapes of annotation tools, and their conversion to a label map."""

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
_BEYOND = 1.0  # pixels; tools let points be slightly outside the image


@dataclass(frozen=True)
class Shape:
    """One shape of a file.

    kind: "area" for all pixels inside `rings`; "mask" for a mask; "stroke" for lines or points; "brush" for a painted
        mask, which may be a stroke or an area.
    rings: closed rings of an area, or lines of a stroke; each float64 [N, 2], (x, y) in pixels.
    mask: bool [h, w], at column and row `offset` of the image.
    """

    label: str
    kind: Literal["area", "mask", "stroke", "brush"]
    rings: tuple[Points, ...] = ()
    mask: Mask | None = None
    offset: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Painting:
    """Settings of the conversion of shapes to a label map.

    Args:
        unlabelled: label of pixels without a shape, "background" or "ignore". Default: background if the image has
            areas or masks, ignore if it has strokes or no shape; an image with both, or with brush masks, is refused.
        stroke_width: width of lines and points, in pixels.
        order: which of overlapping shapes is on top: the later one in the file ("file"), or the smaller one ("area").

    Raises:
        InputError: an invalid value.
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
        """Draw shapes to a label map [H, W] of `classes.dtype`.

        Raises:
            InputError: an unknown class name; a point that is outside the image or NaN; pixels without a shape whose
                label `unlabelled` must state.
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
                    f"A mask of {shape.label!r} extends from ({x}, {y}) to ({x + width}, {y + height}); the image is "
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
                    f"A shape of {shape.label!r} has a point at ({x:.6g}, {y:.6g}), outside the image of "
                    f"{size[1]} x {size[0]} (W x H)"
                )
        if shape.kind == "area":
            return fill(shape.rings, size)
        mask = np.zeros(size, dtype=bool)
        for line in shape.rings:
            mask |= draw(line, self.stroke_width, size)
        return mask, 0, 0

    def _rest(self, kinds: set[str], classes: Classes) -> int:
        """The label of pixels that no shape covers."""
        areas, strokes = bool(kinds & {"area", "mask"}), "stroke" in kinds
        if self.unlabelled is None and ("brush" in kinds or (areas and strokes)):
            what = "masks painted by brush" if "brush" in kinds else "areas and strokes"
            raise InputError(
                f"It has {what}, and pixels without a shape, which may be background or not annotated: give "
                "unlabelled=background or unlabelled=ignore"
            )
        if self.unlabelled == "ignore" or (self.unlabelled is None and not areas):
            return classes.ignore
        if classes.background is None:
            raise InputError(
                "It has pixels without a shape, but no class background: add that class, or give unlabelled=ignore"
            )
        return classes.background


def check_pixels(size: Size) -> None:
    """Raise InputError for an implausible size (H, W), before memory is allocated."""
    if min(size) < 1 or size[0] * size[1] > MAX_PIXELS:
        raise InputError(f"An image of {size[0]} x {size[1]} (H x W); expected 1 to {MAX_PIXELS:,} pixels")


def points_of(values: Any, least: int = 1) -> Points:
    """Convert points [[x, y], ...] or [x, y, x, y, ...] of a file to float64 [N, 2].

    Raises:
        FileError: not pairs of numbers, or fewer than `least`. InputError: NaN or infinity.
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
def error_context(file: object, what: str) -> Iterator[None]:
    """Prefix errors of the block with the file, and the image or shape in it."""
    with about(f"{file}: {what}" if what else file):
        yield
