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
