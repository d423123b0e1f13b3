"""CVAT's points of a shape to a mask, and back. A mask's points are run lengths in row order, then its box."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from dense_ctx_labels.contours import regions
from dense_ctx_labels.raster import Mask, Points, fill
from dense_ctx_labels.records import mask_in
from dense_ctx_labels.rle import mask_of_runs, runs
from dense_ctx_labels.shapes import points_of

from dense_ctx.containment import optional_package
from dense_ctx.errors import FileError, InputError
from dense_ctx.interfaces import Size

TYPES = ("mask", "polygon")


def mask_points(mask: Mask) -> list[float]:
    """The points of a mask [H, W] that is True somewhere: run lengths within its box; left, top, right, bottom."""
    y, x = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    left, top, right, bottom = int(x[0]), int(y[0]), int(x[-1]), int(y[-1])
    return [*map(float, runs(mask[top : bottom + 1, left : right + 1].ravel())), left, top, right, bottom]


def outlines(mask: Mask) -> list[Points]:
    """The ring [N, 2] of each connected region, largest first; see `dense_ctx_labels.contours.regions` for holes."""
    return [ring for _, ring in regions(mask.astype(np.int64), skip=0)]


def checked_tolerance(tolerance: float) -> float:
    """A tolerance of `polygon_points`. Raises InputError: below 0, or NaN."""
    if not tolerance >= 0:
        raise InputError(f"tolerance={tolerance}: expected a number of pixels, 0 or more")
    return tolerance


def polygon_points(ring: Points, tolerance: float = 0.0) -> list[float]:
    """The points of a polygon: x, y, x, y, ...

    Args:
        tolerance: pixels by which an outline of fewer points may be beside this one (Douglas and Peucker 1973).
    """
    if tolerance > 0:
        measure = optional_package("skimage.measure", "A tolerance of polygons", '"dense-ctx[cvat]"')
        coarse = measure.approximate_polygon(np.concatenate([ring, ring[:1]]), tolerance)[:-1]
        ring = coarse if len(coarse) >= 3 else ring
    points: list[float] = ring.ravel().tolist()
    return points


def mask_of(kind: str, points: Sequence[float], size: Size) -> Mask:
    """The mask bool [H, W] of a shape of an image of `size`.

    Raises:
        InputError: another type of shape than `TYPES`, points that are none, a shape without a pixel in the image.
    """
    if kind not in TYPES:
        raise InputError(f"A shape of type {kind!r:.40}; expected {' or '.join(TYPES)}")
    try:
        mask = _of_runs(points, size) if kind == "mask" else _of_ring(points, size)
    except FileError as error:
        raise InputError(f"A {kind}: {error}") from error
    if not mask.any():
        raise InputError(f"A {kind} covers no pixel of the image of {size[1]} x {size[0]} (W x H)")
    return mask


def _of_ring(points: Sequence[float], size: Size) -> Mask:
    mask, x, y = fill([points_of(list(points), least=3)], size)
    return mask_in(mask, (x, y), size)


def _of_runs(points: Sequence[Any], size: Size) -> Mask:
    values = [int(v) if isinstance(v, float) and v.is_integer() else v for v in points]
    *lengths, left, top, right, bottom = values if len(values) >= 5 else [0, 0, 0, -1, -1]
    if not all(isinstance(v, int) for v in values) or not (
        0 <= left <= right < size[1] and 0 <= top <= bottom < size[0]
    ):
        raise InputError(
            f"A mask's points are run lengths and then left, top, right, bottom within the image of {size[1]} x "
            f"{size[0]} (W x H); got {len(values)} that end in {values[-4:]}"
        )
    return mask_in(mask_of_runs(lengths, (bottom - top + 1, right - left + 1), columns=False), (left, top), size)
