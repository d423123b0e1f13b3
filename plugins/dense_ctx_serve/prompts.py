"""From points and boxes on an image to the mask of one object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from dense_ctx_labels.raster import Mask, box, draw, fill
from dense_ctx_session import Session
from scipy import ndimage

from dense_ctx.errors import InputError
from dense_ctx.interfaces import Size

BACKGROUND, OBJECT, UNKNOWN = 0, 1, 255
_REACH = 1 / 200  # radius of a point, as a share of the image's longer side
_BINS = 256
_CORE, _AROUND = 0.7, 1.0  # of a box: its ellipse of object, its surroundings of background; see docs/tools.md
_PARTS, _PIXELS = 32, 3  # marked parts, and pixels of each, that others are compared with
_FIELD = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Marks:
    """What a user marked: pixels of the object, pixels beside it, and a box that the object does not leave.

    positive, negative, inside: bool [H, W].
    """

    positive: Mask
    negative: Mask
    inside: Mask

    @classmethod
    def of_size(cls, size: Size) -> Marks:
        """Without a mark."""
        return cls(np.zeros(size, dtype=bool), np.zeros(size, dtype=bool), np.ones(size, dtype=bool))

    def add_point(self, point: Sequence[float], positive: bool) -> None:
        """Mark the surroundings of a point, (x, y) in pixels. Raises InputError: outside of the image."""
        x, y = point
        height, width = self.positive.shape
        if not (0 <= x <= width and 0 <= y <= height):
            raise InputError(f"A point at ({x:g}, {y:g}) lies outside of the image of {width} x {height} (W x H)")
        radius = max(1.0, _REACH * max(height, width))
        target = self.positive if positive else self.negative
        target |= draw(np.array([[x, y]], dtype=np.float64), 2 * radius, (height, width))

    def add_box(self, corners: Sequence[float], positive: bool) -> None:
        """A box (x, y, x, y) around the object, or one that holds nothing of it.

        Raises:
            InputError: it covers no pixel.
        """
        left, top, right, bottom = corners
        size = self.positive.shape[0], self.positive.shape[1]
        ring = box(min(left, right), min(top, bottom), max(left, right), max(top, bottom))
        pixels, x, y = fill((ring,), size)
        window = slice(y, y + pixels.shape[0]), slice(x, x + pixels.shape[1])
        whole = np.zeros(size, dtype=bool)
        whole[window] = pixels
        if not whole.any():
            raise InputError(f"A box from ({left:g}, {top:g}) to ({right:g}, {bottom:g}) covers no pixel of the image")
        if positive:
            self.inside[...] &= whole
        else:
            self.negative[...] |= whole

    def add_mask(self, mask: Mask, positive: bool) -> None:
        """Mark pixels, bool [H, W]."""
        target = self.positive if positive else self.negative
        target |= mask


def object_mask(session: Session, item: int, marks: Marks) -> tuple[Mask, float]:
    """The mask of the object that is marked, bool [H, W], and its certainty, 0 to 1: its mean probability.

    Seeds of object and background are found first, then every pixel is classified by the session's method, fitted to
    them. With a box the ellipse in its middle is object, and what surrounds it is background. Without one the seeds are
    the pixels whose features are most and least similar to the marked ones, by two thresholds that divide the image's
    cosines best (Otsu, 1979); pixels that are more similar to what is marked beside the object are background. Of the
    result the connected parts that are marked remain. The session's annotation of the item is replaced.

    Raises:
        InputError: nothing is marked as the object, or everything. FileError: the item cannot be read.
    """
    marked = marks.positive & ~marks.negative
    if not marks.inside.all():
        core, around = _of_box(marks.inside)
        positive, negative = (marked | core) & ~marks.negative, around | marks.negative
        marked = positive if not marked.any() else marked
    elif marked.any():
        positive, negative = _of_points(session, item, marked, marks.negative)
    else:
        raise InputError("Nothing is marked as the object: add a point or a box on it")
    negative = negative & ~positive
    if not negative.any():
        raise InputError("All of the image is marked as the object: mark less of it, or something beside it")
    share = _classified(session, item, positive, negative)
    selection = ((share > 0.5) | marks.positive) & marks.inside & ~marks.negative
    parts, _ = ndimage.label(selection)
    touched = np.setdiff1d(np.unique(parts[marked & selection]), 0)
    mask: Mask = np.isin(parts, touched)
    return mask, float(share[mask].mean()) if mask.any() else 0.0


def _of_box(inside: Mask) -> tuple[Mask, Mask]:
    """Seeds of a box: an ellipse in its middle, and its surroundings, as wide as it is."""
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    y, x = np.mgrid[: inside.shape[0], : inside.shape[1]] + 0.5
    y, x = (2 * y - top - bottom) / (bottom - top), (2 * x - left - right) / (right - left)
    near = (np.abs(y) <= 1 + 2 * _AROUND) & (np.abs(x) <= 1 + 2 * _AROUND)
    core = inside & (np.hypot(y, x) < _CORE)
    return core if core.any() else inside, near & ~inside  # a box of two pixels a side has no middle


def _of_points(session: Session, item: int, marked: Mask, beside: Mask) -> tuple[Mask, Mask]:
    """Seeds of points: what is like them, and what is not or is more like what is marked beside the object."""
    like = _similarity(session, item, marked)
    low = otsu(like)
    above = like[like > low]
    high = otsu(above) if above.size else low
    positive, negative = like > high, like <= low
    if beside.any():
        other = _similarity(session, item, beside) > like
        positive, negative = positive & ~other, negative | other
    return (positive | marked) & ~beside, (negative | beside) & ~marked


def _classified(session: Session, item: int, positive: Mask, negative: Mask) -> _FIELD:
    """The object's probability, float32 [H, W]."""
    labels = np.full(positive.shape, UNKNOWN, dtype=np.uint8)
    labels[negative] = BACKGROUND
    labels[positive] = OBJECT
    session.clear(item)
    session.mask_label(item, labels)
    share: _FIELD = session.probabilities(item)[OBJECT]
    return share


def _similarity(session: Session, item: int, positive: Mask) -> _FIELD:
    """The greatest cosine to some pixels of each marked part, float32 [H, W]."""
    parts, count = ndimage.label(positive)
    result: _FIELD = np.full(positive.shape, -1, dtype=np.float32)
    for number in range(1, min(count, _PARTS) + 1):
        pixels = np.argwhere(parts == number)
        places = np.linspace(0, len(pixels) - 1, _PIXELS + 2).astype(int)[1:-1]  # none at its ends
        for row, column in pixels[np.unique(places)].tolist():
            result = np.maximum(result, session.similarity(item, column, row))
    return result


def otsu(values: _FIELD) -> float:
    """The threshold that leaves the greatest variance between the two sides (Otsu, 1979); of several the middle one."""
    counts, edges = np.histogram(values, _BINS)
    centres = (edges[1:] + edges[:-1]) / 2
    below, total = np.cumsum(counts), counts.sum()
    above = total - below
    first = np.cumsum(counts * centres)
    means = first / np.maximum(below, 1), (first[-1] - first) / np.maximum(above, 1)
    between = below * above * (means[0] - means[1]) ** 2
    best = np.flatnonzero(between >= between.max() * (1 - 1e-9))
    return float(edges[1 + best].mean())
