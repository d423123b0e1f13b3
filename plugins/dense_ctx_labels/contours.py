"""Convert a label map to polygons, one per connected region, that rasterise to the same label map."""

from __future__ import annotations

from typing import Any

import numpy as np

from .annotation import LabelArray
from .raster import Points

_Ids = np.ndarray[Any, np.dtype[np.int64]]


def regions(labels: LabelArray, skip: int | None) -> list[tuple[int, Points]]:
    """(id, ring) of each connected region, sorted by the area of the outline, largest first.

    Rings run along pixel edges, so `dense_ctx_labels.raster.fill` reproduces the pixels exactly. A hole is joined to
    its region's ring by a vertical slit of zero width.

    Args:
        labels: integers [H, W].
        skip: an id whose regions are not returned.

    Returns:
        Rings float64 [N, 2] of (x, y) in pixels.
    """
    components, ids = _components(labels)
    loops = _loops(components)
    rings = []
    for value, (outline, *holes) in zip(ids.tolist(), loops, strict=True):
        if value == skip:
            continue
        area = area_of(outline)
        for hole in sorted(holes, key=lambda ring: float(ring[:, 1].min())):
            outline = _joined(outline, hole)
        rings.append((area, value, outline))
    return [(value, ring) for _, value, ring in sorted(rings, key=lambda item: -item[0])]


def _joined(ring: Points, hole: Points) -> Points:
    """Join a hole to the ring by a vertical slit, from the left end of the hole's top side up to the ring."""
    top = np.lexsort((hole[:, 0], hole[:, 1]))[0]
    x, y = hole[top]
    following = np.roll(ring, -1, axis=0)
    left, right = np.minimum(ring[:, 0], following[:, 0]), np.maximum(ring[:, 0], following[:, 0])
    above = (ring[:, 1] == following[:, 1]) & (left <= x) & (right > x) & (ring[:, 1] < y)
    side = int(np.argmax(np.where(above, ring[:, 1], -1)))
    entry = np.array([[x, ring[side, 1]]])
    around = np.roll(hole, -top, axis=0)
    return np.concatenate([ring[: side + 1], entry, around, around[:1], entry, ring[side + 1 :]])


def _components(labels: LabelArray) -> tuple[_Ids, _Ids]:
    """4-connected components: indices [H, W] from 0, and the id of each component."""
    from scipy import ndimage

    components = np.zeros(labels.shape, dtype=np.int64)
    ids: list[int] = []
    for value in np.unique(labels):
        inside = labels == value
        parts, count = ndimage.label(inside)
        components[inside] = parts[inside] - 1 + len(ids)
        ids += [int(value)] * count
    return components, np.array(ids, dtype=np.int64)


def _loops(components: _Ids) -> list[list[Points]]:
    """Boundary corners of each region: the outline first (clockwise in image coordinates), then the holes."""
    height, width = components.shape
    padded = np.pad(components, 1, constant_values=-1)
    parts = []
    # pixel sides that border another region, directed with the region on the right: top, right, bottom, left
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
    # where two pixels of a region touch only at a corner, follow the sides of the same pixel
    second = np.minimum(follower + 1, len(key) - 1)
    other = (key[second] == key[follower]) & (pixel[second] == pixel) & (second != follower)
    following = np.where(other, second, follower).tolist()
    loops: list[list[Points]] = [[] for _ in range(int(components.max()) + 1)]
    visits = bytearray(len(following))
    for first in range(len(following)):
        if visits[first]:
            continue
        loop, edge = [], first
        while not visits[edge]:
            visits[edge] = 1
            loop.append(edge)
            edge = following[edge]
        y, x = np.divmod(start[loop], width + 1)
        points = np.stack([x, y], axis=1).astype(np.float64)
        corner = np.any(np.diff(points, axis=0, prepend=points[-1:]) != np.roll(points, -1, axis=0) - points, axis=1)
        ring = points[corner]
        loops[region[first]].insert(0 if area_of(ring) > 0 else len(loops[region[first]]), ring)
    return loops


def area_of(ring: Points) -> float:
    """Signed area, positive if the ring runs clockwise in image coordinates (y down)."""
    x, y = ring.T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2
