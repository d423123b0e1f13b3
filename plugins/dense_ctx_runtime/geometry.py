"""What a graph of any size needs to know of an image's size: padding, cells of pixels, and resizing as matrices."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = "np.ndarray[Any, Any]"
Size: TypeAlias = "tuple[int, int]"


def padded(image: Array, stride: int) -> Array:
    """[1, C, H, W] padded at the bottom and right to multiples of `stride`, replicating the border."""
    height, width = image.shape[-2:]
    extra = ((0, 0), (0, 0), (0, -height % stride), (0, -width % stride))
    return np.pad(image, extra, mode="edge")


def step_of(size: Size, cells: int, stride: int | None) -> int:
    """Pixels per side of a cell: `stride`, or the least that gives an image of `size` at most so many cells."""
    return stride or math.ceil(math.sqrt(size[0] * size[1] / cells))


def cell_axis(length: int, step: int) -> tuple[Array, Array]:
    """The pixels of each cell along one side, int64 [n, s], and their shares of its mean, float32 [n, s].

    The last cell may be cut by the border; it is the mean of what is there. s is `step`, and 2 for a step of 1, the
    second pixel without a share: PyTorch's exporter takes a side of 1 for a constant.
    """
    inside = np.arange(max(step, 2))
    place = np.arange(-(-length // step))[:, None] * step + inside
    counts = (inside < step) & (place < length)
    shares = counts / counts.sum(1, keepdims=True)
    return np.minimum(place, length - 1).astype(np.int64), shares.astype(np.float32)


def sample_axis(length: int, step: int) -> tuple[Array, Array]:
    """Two pixels of each cell along one side, a fourth of it from its borders: int64 [n, 2], float32 shares [n, 2]."""
    offsets = np.array([step // 4, step - 1 - step // 4])
    place = np.arange(-(-length // step))[:, None] * step + offsets
    return np.minimum(place, length - 1).astype(np.int64), np.full(place.shape, 0.5, np.float32)


def filter_axes(length: int, whole: int, step: int, radius: int) -> dict[str, Array]:
    """What the guided filter does along one side of `length` pixels, padded to `whole`, as matrices.

    "guide" [m, whole]: means of half cells; "lift" [m, n]: cells at the centres of half cells; "box" [m, m]: means of
    windows; "out" [whole, m]: half cells at the centres of pixels.
    """
    half, cells = max(1, step // 2), -(-length // step)
    index, shares = cell_axis(length, half)
    guide = np.zeros((len(index), whole), np.float32)
    np.add.at(guide, (np.arange(len(index))[:, None], index), shares)
    places = np.arange(len(index))
    box = (np.abs(places[:, None] - places) <= radius).astype(np.float32)
    return {
        "guide": guide, "lift": _bilinear(len(index), half, cells, step), "box": box / box.sum(1, keepdims=True),
        "out": _bilinear(whole, 1, len(index), half),
    }  # fmt: skip


def _bilinear(after: int, size_after: int, before: int, size_before: int) -> Array:
    """[after, before]: values of `before` cells read at the centres of cells of another size."""
    places = ((np.arange(after) + 0.5) * size_after / size_before - 0.5).clip(0, before - 1)
    return np.asarray(np.maximum(0, 1 - np.abs(places[:, None] - np.arange(before))), dtype=np.float32)


def cell_inputs(size: Size, whole: Size, step: int, radius: int | None) -> dict[str, Array]:
    """Inputs of a graph that reads cells, by name; radius: of a filter in half cells, 0: none.

    Args:
        size: (H, W) of the image; whole: of the padded one.
        radius: None: cells are means of all their pixels, and scores are enlarged without a filter.
    """
    inputs: dict[str, Array] = {}
    for name, side, full in zip(("rows", "columns"), size, whole, strict=True):
        index, shares = cell_axis(side, step) if radius is None else sample_axis(side, step)
        inputs |= {name: index, f"{name}_shares": shares}
        if radius:
            inputs |= {f"{name}_{key}": matrix for key, matrix in filter_axes(side, full, step, radius).items()}
        else:
            inputs[f"{name}_out"] = resize_axis(len(index), side)
    return inputs


def resize_axis(before: int, after: int) -> Array:
    """Bilinear resizing of one side as a matrix, float32 [after, before]; antialiased where it shrinks (as PyTorch)."""
    scale = before / after
    support = max(scale, 1.0)
    centres = (np.arange(after) + 0.5) * scale
    positions = np.arange(before) + 0.5
    if scale <= 1:  # beyond the first and last pixel that pixel's value holds
        centres = centres.clip(0.5, before - 0.5)
    weights = np.maximum(0.0, 1 - np.abs(positions - centres[:, None]) / support)
    return np.asarray(weights / weights.sum(1, keepdims=True), dtype=np.float32)


def resized(values: Array, size: Size) -> Array:
    """[..., H, W] at another size: bilinear, antialiased where it shrinks."""
    height, width = values.shape[-2:]
    rows, columns = resize_axis(height, size[0]), resize_axis(width, size[1])
    return np.asarray(rows @ values @ columns.T)


def nearest(values: Array, size: Size) -> Array:
    """[..., H, W] at another size: the value under each new pixel's centre."""
    height, width = values.shape[-2:]
    rows = ((np.arange(size[0], dtype=np.float32) + np.float32(0.5)) * height / size[0]).astype(np.int64)
    columns = ((np.arange(size[1], dtype=np.float32) + np.float32(0.5)) * width / size[1]).astype(np.int64)
    return values[..., rows, :][..., columns]
