"""Rasterise polygons and strokes. Pixel (x, y) is the square from (x, y) to (x + 1, y + 1)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np

from dense_ctx.interfaces import Size

Points: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]  # [N, 2], x and y
Row: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]  # [N]
Mask: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]]
_CHUNK = 1 << 20  # crossings of edges and rows at once


def fill(rings: Sequence[Points], size: Size) -> tuple[Mask, int, int]:
    """Fill closed rings by the even-odd rule at pixel centres; parts outside the image are clipped.

    Args:
        rings: float64 [N, 2] each, (x, y) in pixels. size: (H, W).

    Returns:
        (mask, x, y): the mask bool [h, w] of a box within the image, and the box's first column and row.
    """
    points = np.concatenate(rings)
    left, top = (int(v) for v in np.clip(np.floor(points.min(0)), 0, (size[1], size[0])))
    right, bottom = (int(v) for v in np.clip(np.ceil(points.max(0)), (left, top), (size[1], size[0])))
    height, width = bottom - top, right - left
    # an edge toggles all pixels to the right of its crossing with the row's centre line
    toggles = np.zeros((height, width + 1), dtype=np.int32)
    start = np.concatenate(rings) - (left, top)
    end = np.concatenate([np.roll(ring, -1, axis=0) for ring in rings]) - (left, top)
    up = (start[:, 1] > end[:, 1])[:, None]  # direct all edges downwards, so that both passes of a slit cancel exactly
    start, end = np.where(up, end, start), np.where(up, start, end)
    first = np.clip(np.ceil(start[:, 1] - 0.5), 0, height).astype(np.int64)
    counts = np.clip(np.ceil(end[:, 1] - 0.5), 0, height).astype(np.int64) - first
    for part in _chunks(counts):
        edge = np.repeat(np.arange(len(counts))[part], counts[part])
        if not len(edge):
            continue
        begin = np.cumsum(counts[part]) - counts[part]
        row = np.arange(len(edge)) - np.repeat(begin, counts[part]) + first[edge]
        run, rise = (end - start)[edge].T
        x = start[edge, 0] + (row + 0.5 - start[edge, 1]) * run / rise
        column = np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)
        np.add.at(toggles, (row, column), 1)
    mask: Mask = np.cumsum(toggles[:, :width], axis=1) % 2 == 1
    return mask, left, top


def _chunks(counts: np.ndarray[Any, np.dtype[np.int64]]) -> list[slice]:
    """Slices of consecutive edges with about `_CHUNK` row crossings each."""
    group = np.cumsum(counts) // _CHUNK
    bounds = [0, *(np.flatnonzero(np.diff(group)) + 1).tolist(), len(counts)]
    return [slice(a, b) for a, b in pairwise(bounds)]


def draw(points: Points, width: float, size: Size) -> Mask:
    """Mask [H, W] of a stroke: pixel centres within half its width of the line, with round ends.

    The pixels that contain the points are always included. A single point gives a disc.

    Args:
        points: float64 [N, 2], (x, y) in pixels. width: in pixels. size: (H, W).
    """
    ends = points if len(points) > 1 else np.concatenate([points, points])
    start, end, reach = ends[:-1], ends[1:], width / 2
    # a piece of the line is convex: it covers one interval of each row, whose first pixel adds 1 and behind it -1
    toggles = np.zeros((size[0], size[1] + 1), dtype=np.int32)
    top, bottom = np.minimum(start[:, 1], end[:, 1]) - reach, np.maximum(start[:, 1], end[:, 1]) + reach
    first = np.clip(np.ceil(top - 0.5), 0, size[0]).astype(np.int64)
    counts = np.maximum(np.clip(np.floor(bottom + 0.5), 0, size[0]).astype(np.int64) - first, 0)
    for part in _chunks(counts):
        piece = np.repeat(np.arange(len(counts))[part], counts[part])
        if not len(piece):
            continue
        begin = np.cumsum(counts[part]) - counts[part]
        row = np.arange(len(piece)) - np.repeat(begin, counts[part]) + first[piece]
        left, right = _interval(start[piece], end[piece], reach, row + 0.5)
        low = np.clip(np.ceil(left - 0.5), 0, size[1]).astype(np.int64)
        high = np.clip(np.floor(right + 0.5), 0, size[1]).astype(np.int64)
        some = high > low
        np.add.at(toggles, (row[some], low[some]), 1)
        np.add.at(toggles, (row[some], high[some]), -1)
    mask: Mask = np.cumsum(toggles, axis=1, out=toggles)[:, : size[1]] > 0
    x, y = np.clip(np.floor(points), 0, (size[1] - 1, size[0] - 1)).astype(int).T
    mask[y, x] = True
    return mask


def _interval(start: Points, end: Points, reach: float, y: Row) -> tuple[Row, Row]:
    """What each row at a height y has of the points within `reach` of a piece of a line: from x to x."""
    left, right = np.full(len(y), np.inf), np.full(len(y), -np.inf)
    for centre in (start, end):  # the round ends
        square = reach**2 - (y - centre[:, 1]) ** 2
        half = np.where(square >= 0, np.sqrt(np.maximum(square, 0)), -np.inf)
        left, right = np.minimum(left, centre[:, 0] - half), np.maximum(right, centre[:, 0] + half)
    step = end - start
    across = reach * np.stack([-step[:, 1], step[:, 0]], axis=1) / np.maximum(np.hypot(*step.T), 1e-12)[:, None]
    sides = (start + across, end + across), (start - across, end - across)
    for one, other in (*sides, (start + across, start - across), (end + across, end - across)):
        rise = other[:, 1] - one[:, 1]
        x = one[:, 0] + (y - one[:, 1]) * (other[:, 0] - one[:, 0]) / np.where(rise == 0, 1, rise)
        met = (rise != 0) & (np.minimum(one[:, 1], other[:, 1]) <= y) & (y <= np.maximum(one[:, 1], other[:, 1]))
        left, right = np.where(met, np.minimum(left, x), left), np.where(met, np.maximum(right, x), right)
    return left, right


def ellipse(centre: tuple[float, float], radii: tuple[float, float], degrees: float = 0.0) -> Points:
    """Approximate an ellipse by a ring [N, 2] with an error of at most 0.05 pixels.

    Args:
        degrees: rotation, clockwise in image coordinates (y down).
    """
    largest = max(*radii, 1.0)
    sides = int(np.clip(np.ceil(np.pi / np.arccos(1 - min(0.05 / largest, 1))), 16, 4096))
    angle = np.arange(sides) * (2 * np.pi / sides)
    return rotate(np.stack([radii[0] * np.cos(angle), radii[1] * np.sin(angle)], axis=1), (0, 0), degrees) + centre


def box(left: float, top: float, right: float, bottom: float) -> Points:
    """A rectangle as a ring."""
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], dtype=np.float64)


def rotate(points: Points, about: tuple[float, float], degrees: float) -> Points:
    """Rotate points about a centre, clockwise in image coordinates (y down)."""
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    result: Points = (points - about) @ np.array([[cosine, sine], [-sine, cosine]]) + about
    return result
