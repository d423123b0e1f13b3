"""What a user drew: strokes, masks and erasures in order, and the label map that they give together."""

from __future__ import annotations

import base64
import contextlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from dense_ctx_labels.raster import draw

from dense_ctx.errors import CheckpointError, InputError
from dense_ctx.interfaces import Size

IGNORE = 255  # not annotated
LIMIT = 254  # classes
_POINTS = 20_000  # of a stroke

LabelMap = np.ndarray[Any, np.dtype[np.uint8]]
Pixels = np.ndarray[Any, np.dtype[np.int32]]
PointArray = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, eq=False)
class Stroke:
    """A line of a brush. class_id: None erases. points: [N, 2], x and y in pixels of the image. radius: pixels.

    pixels: flat indices of those it covers, int32; None: not worked out.
    """

    id: int
    class_id: int | None
    points: PointArray
    radius: float
    pixels: Pixels | None = field(default=None, repr=False)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {"id": self.id, "class": self.class_id, "points": self.points.tolist(), "radius": self.radius}


@dataclass(frozen=True, eq=False)
class Mask:
    """Labels of a whole image or of parts, where they are not 255; packed."""

    id: int
    size: Size
    packed: bytes

    def labels(self) -> LabelMap:
        """uint8 [H, W], 255 where it says nothing."""
        count = self.size[0] * self.size[1]
        values = np.empty(0, np.uint8)
        with contextlib.suppress(zlib.error):  # never more than an image takes
            values = np.frombuffer(zlib.decompressobj().decompress(self.packed, count + 1), np.uint8)
        if len(values) != count:
            raise CheckpointError(f"A stored mask has {len(values)} values, not {count}: the session is damaged")
        return values.reshape(self.size)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {"id": self.id, "mask": base64.b64encode(self.packed).decode()}


Drawing = Stroke | Mask
Drawings = tuple[Drawing, ...]


def stroke_of(id: int, class_id: int | None, points: Any, radius: Any, size: Size) -> Stroke:
    """A stroke of an image of `size`, checked.

    Raises:
        InputError: no points, NaN, too many, a radius that is not above 0 or beyond the image's size; a stroke that
            touches no pixel, or that leads far away from the image.
    """
    try:
        values = np.asarray(points, dtype=np.float64)
        reach = float(radius)
    except (TypeError, ValueError):
        raise InputError(
            f"A stroke has points [N, 2] of numbers and a radius; got {points!r:.80}, {radius!r:.40}"
        ) from None
    if values.ndim != 2 or values.shape[1] != 2 or not 1 <= len(values) <= _POINTS:
        raise InputError(f"A stroke has points [N, 2], x and y, 1 to {_POINTS:,} of them; got {list(values.shape)}")
    if not np.isfinite(values).all() or not np.isfinite(reach):
        raise InputError("A stroke has a point or a radius that is NaN or infinite")
    longest = max(size)
    if not 0 < reach <= longest:
        raise InputError(f"radius={reach:g}: expected above 0 and at most the image's longer side, {longest}")
    if (values < -longest).any() or (values > np.array(size[::-1]) + longest).any():
        raise InputError(
            f"A stroke reaches from {values.min(0).round(1).tolist()} to {values.max(0).round(1).tolist()}, far "
            f"outside of the image of {size[1]} x {size[0]} (W x H): points are in the image's pixels"
        )
    stroke = Stroke(id, class_id, values, reach)
    pixels = stroke_pixels(stroke, size)
    if not len(pixels):
        raise InputError(
            f"The stroke at {values[0].round(1).tolist()} lies outside of the image of {size[1]} x {size[0]} (W x H)"
        )
    return replace(stroke, pixels=pixels)


def stroke_pixels(stroke: Stroke, size: Size) -> Pixels:
    """Flat indices of the pixels whose centres are within the radius of the line; what lies outside is cut off."""
    # a margin of one pixel around the image takes the pixels of the points outside
    low = np.maximum(np.floor(stroke.points.min(0) - stroke.radius), -1).astype(int)
    high = np.minimum(np.floor(stroke.points.max(0) + stroke.radius) + 1, (size[1] + 1, size[0] + 1)).astype(int)
    if (low >= high).any():
        return np.zeros(0, dtype=np.int32)
    width, height = high - low
    box = draw(stroke.points - low, 2 * stroke.radius, (height, width))
    y, x = np.nonzero(box)
    y, x = y + low[1], x + low[0]
    inside = (y >= 0) & (x >= 0) & (y < size[0]) & (x < size[1])
    pixels: Pixels = (y[inside] * size[1] + x[inside]).astype(np.int32)
    return pixels


def mask_of(id: int, labels: Any, size: Size, classes: Sequence[int]) -> Mask:
    """A mask of an image of `size`, checked.

    Raises:
        InputError: not whole numbers [H, W], another size, an id without a class, nothing annotated.
    """
    values = np.asarray(labels)
    if values.ndim != 2 or values.dtype.kind not in "iu":
        raise InputError(f"A mask is whole numbers [H, W]; got {values.dtype} {list(values.shape)}")
    if values.shape != size:
        raise InputError(
            f"The mask is {values.shape[0]} x {values.shape[1]} (H x W), the image {size[0]} x {size[1]}: resize it by "
            "nearest neighbour first"
        )
    present = np.unique(values).tolist()
    if strange := [value for value in present if value not in (*classes, IGNORE)]:
        raise InputError(
            f"The mask holds {', '.join(map(str, strange[:5]))}; the classes are "
            f"{', '.join(map(str, classes)) or 'none yet'}, and {IGNORE} is not annotated"
        )
    if present == [IGNORE]:
        raise InputError(f"The mask is {IGNORE} everywhere, which is not annotated: clear(item) removes annotation")
    return Mask(id, size, zlib.compress(np.ascontiguousarray(values, dtype=np.uint8).tobytes(), 1))


def drawing_from_json(record: dict[str, Any], size: Size) -> Drawing:
    """What `to_json` gave, checked again: a file may say anything.

    Raises:
        KeyError, TypeError, ValueError, CheckpointError: it is something else.
    """
    if "mask" in record:
        mask = Mask(int(record["id"]), size, base64.b64decode(record["mask"]))
        if ((labels := mask.labels()) >= LIMIT).any() and (labels[labels >= LIMIT] != IGNORE).any():
            raise ValueError(f"a mask has ids beyond {LIMIT - 1}")
        return mask
    class_id = record["class"]
    if class_id is not None and not (isinstance(class_id, int) and 0 <= class_id < LIMIT):
        raise ValueError(f"class {class_id!r:.40}")
    return stroke_of(int(record["id"]), class_id, record["points"], record["radius"], size)


class Canvas:
    """The label map of an item, brought from one list of drawings to another with as little work as possible.

    Attributes: labels: uint8 [H, W]; drawings: that it shows.
    """

    def __init__(self, size: Size) -> None:
        self.labels: LabelMap = np.full(size, IGNORE, dtype=np.uint8)
        self.drawings: Drawings = ()
        self._before: list[tuple[Any, LabelMap]] = []  # of each drawing: where, and the values before it

    def show(self, drawings: Drawings) -> None:
        """Show these drawings, one over the other."""
        shared = 0
        for one, other in zip(self.drawings, drawings, strict=False):
            if one is not other:
                break
            shared += 1
        flat = self.labels.reshape(-1)
        for place, values in reversed(self._before[shared:]):
            flat[place] = values
        del self._before[shared:]
        for drawing in drawings[shared:]:
            place, colour = self._paint(drawing)
            self._before.append((place, flat[place].copy()))
            flat[place] = colour
        self.drawings = drawings

    def _paint(self, drawing: Drawing) -> tuple[Any, Any]:
        """Which pixels a drawing covers, all of them for a mask, and what they become."""
        if isinstance(drawing, Stroke):
            pixels = drawing.pixels
            if pixels is None:
                pixels = stroke_pixels(drawing, (self.labels.shape[0], self.labels.shape[1]))
            return pixels, IGNORE if drawing.class_id is None else drawing.class_id
        values = drawing.labels().reshape(-1)
        return slice(None), np.where(values == IGNORE, self.labels.reshape(-1), values)


def without_class(drawings: Drawings, class_id: int) -> Drawings:
    """The drawings as if a class had never been drawn."""
    left: list[Drawing] = []
    for drawing in drawings:
        if isinstance(drawing, Stroke):
            if drawing.class_id != class_id:
                left.append(drawing)
            continue
        labels = drawing.labels()
        if not (labels == class_id).any():
            left.append(drawing)
            continue
        rest = np.where(labels == class_id, IGNORE, labels).astype(np.uint8)
        if (rest != IGNORE).any():
            left.append(Mask(drawing.id, drawing.size, zlib.compress(rest.tobytes(), 1)))
    return tuple(left)
