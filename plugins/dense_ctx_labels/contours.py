"""Label maps as polygons that give the same label maps when they are drawn one over the other."""

from __future__ import annotations

from typing import Any

import numpy as np

from .base import LabelArray
from .raster import Points, fill

_Ids = np.ndarray[Any, np.dtype[np.int64]]


def regions(labels: LabelArray, skip: int | None) -> list[tuple[int, Points]]:
    """(id, ring) of each connected region, in the order to draw them: one inside another comes later.

    Rings run along the edges of pixels, so that `dense_ctx_labels.raster.fill` gives the very pixels. A hole is the
    region in it, drawn over.

    Args:
        labels: [H, W]. skip: an id that is there before anything is drawn; its regions are left out, but for those
            that others are drawn over.
    """
    components, ids = _components(labels)
    rings = _outer_rings(components)
    order = sorted(range(len(ids)), key=lambda index: -_area(rings[index]))
    if skip is None:
        return [(int(ids[index]), rings[index]) for index in order]
    covered = np.zeros(labels.shape, dtype=bool)
    for index in order:
        if ids[index] != skip:
            mask, x, y = fill([rings[index]], (labels.shape[0], labels.shape[1]))
            covered[y : y + mask.shape[0], x : x + mask.shape[1]] |= mask
    needed = {int(index) for index in np.unique(components[covered & (labels == skip)])}
    return [(int(ids[index]), rings[index]) for index in order if ids[index] != skip or index in needed]


def _components(labels: LabelArray) -> tuple[_Ids, _Ids]:
    """Regions whose pixels touch by their sides, [H, W] from 0, and the id of each."""
    from scipy import ndimage

    components = np.zeros(labels.shape, dtype=np.int64)
    ids: list[int] = []
    for value in np.unique(labels):
        inside = labels == value
        parts, count = ndimage.label(inside)
        components[inside] = parts[inside] - 1 + len(ids)
        ids += [int(value)] * count
    return components, np.array(ids, dtype=np.int64)


def _outer_rings(components: _Ids) -> list[Points]:
    """The outer boundary of each region: its corners, clockwise as seen."""
    height, width = components.shape
    padded = np.pad(components, 1, constant_values=-1)
    parts = []
    # a pixel's sides that another region lies behind, with the region on the right hand: top, right, bottom, left
    for (dy, dx), (sx, sy), (ex, ey) in (
        ((-1, 0), (0, 0), (1, 0)),
        ((0, 1), (1, 0), (1, 1)),
        ((1, 0), (1, 1), (0, 1)),
        ((0, -1), (0, 1), (0, 0)),
    ):
        y, x = np.nonzero(padded[1 + dy : height + 1 + dy, 1 + dx : width + 1 + dx] != components)
        start, end = (y + sy) * (width + 1) + x + sx, (y + ey) * (width + 1) + x + ex
        parts.append(np.stack([components[y, x], start, end, y * width + x]))
    region, start, end, pixel = np.concatenate(parts, axis=1)
    vertices = (height + 1) * (width + 1)
    order = np.argsort(region * vertices + start, kind="stable")
    region, start, end, pixel = region[order], start[order], end[order], pixel[order]
    key = region * vertices + start
    follower = np.searchsorted(key, region * vertices + end)
    # two pixels of a region that touch by a corner alone: stay with one's own
    second = np.minimum(follower + 1, len(key) - 1)
    other = (key[second] == key[follower]) & (pixel[second] == pixel) & (second != follower)
    following = np.where(other, second, follower).tolist()
    rings: dict[int, Points] = {}
    seen = bytearray(len(following))
    for first in range(len(following)):
        if seen[first]:
            continue
        loop, edge = [], first
        while not seen[edge]:
            seen[edge] = 1
            loop.append(edge)
            edge = following[edge]
        y, x = np.divmod(start[loop], width + 1)
        points = np.stack([x, y], axis=1).astype(np.float64)
        corner = np.any(np.diff(points, axis=0, prepend=points[-1:]) != np.roll(points, -1, axis=0) - points, axis=1)
        ring = points[corner]
        if _area(ring) > 0:  # the others run around holes
            rings[int(region[first])] = ring
    return [rings[index] for index in range(len(rings))]


def _area(ring: Points) -> float:
    """Twice the area within, above 0 where it runs clockwise as seen."""
    x, y = ring.T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1))
