"""Label maps as polygons with few points."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
from dense_ctx_labels.annotation import LabelArray
from dense_ctx_labels.contours import area_of, regions
from dense_ctx_labels.raster import Mask, Points
from scipy import ndimage

_STAIRS = 1.0  # pixels: what the stairs of a slanted edge, and a jag of one pixel, lie within


def polygons(labels: LabelArray, shown: Collection[int], fineness: float, least: float) -> Iterator[tuple[int, Points]]:
    """(id, ring) of each connected region, float64 [N, 2], (x, y) in pixels; the largest first, those in it after it.

    A hole that other regions of `shown` fill is left to them, which lie on top; a larger one is joined to the ring by a
    slit of zero width.

    Args:
        labels: integers [H, W]. shown: ids that get polygons.
        fineness: how far a ring may be from the region's outline, as a share of the outline's length; at least so far
            that the stairs of pixels go.
        least: pixels of a region, and of a hole; smaller ones are left out.
    """
    hidden = ~np.isin(labels, list(shown))
    rings = []
    for value in shown:
        parts, _ = ndimage.label(labels == value)
        for number, window in enumerate(ndimage.find_objects(parts), 1):
            part = parts[window] == number
            if np.count_nonzero(part) >= least:
                ((_, ring),) = regions(_closed(part, hidden[window], least).astype(np.uint8), 0)
                rings.append((abs(area_of(ring)), value, np.add(ring, [window[1].start, window[0].start])))
    for _, value, ring in sorted(rings, key=lambda row: -row[0]):
        length = float(np.hypot(*(np.roll(ring, -1, axis=0) - ring).T).sum())
        simple = simplified(ring, max(_STAIRS, fineness * length))
        yield value, simple if len(simple) >= 3 else ring


def _closed(part: Mask, hidden: Mask, least: float) -> Mask:
    """A region without those of its holes that have fewer than `least` hidden pixels."""
    holes, count = ndimage.label(ndimage.binary_fill_holes(part) & ~part)
    sizes = ndimage.sum_labels(hidden, holes, range(1, count + 1))
    closed: Mask = part | np.isin(holes, 1 + np.flatnonzero(np.asarray(sizes) < least))
    return closed


def simplified(ring: Points, tolerance: float) -> Points:
    """A closed ring with fewer points, none of the left out ones farther than `tolerance` (Douglas and Peucker, 1973).

    Args:
        ring: float64 [N, 2]. tolerance: pixels.
    """
    first = int(np.lexsort(ring.T)[0])
    points = np.roll(ring, -first, axis=0)
    far = int(np.argmax(np.hypot(*(points - points[0]).T)))
    closed = np.concatenate([points, points[:1]])
    keep = np.zeros(len(closed), dtype=bool)
    keep[[0, far, -1]] = True
    spans = [(0, far), (far, len(closed) - 1)]
    while spans:
        low, high = spans.pop()
        if high - low < 2:
            continue
        start, step = closed[low], closed[high] - closed[low]
        offsets = closed[low + 1 : high] - start
        along = np.clip(offsets @ step / max(float(step @ step), 1e-12), 0, 1)
        distance = np.hypot(*(offsets - along[:, None] * step).T)
        if distance.max() > tolerance:
            middle = low + 1 + int(np.argmax(distance))
            keep[middle] = True
            spans += [(low, middle), (middle, high)]
    result: Points = closed[keep][:-1]
    return result
