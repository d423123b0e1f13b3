"""Large images in bounded memory: overlapping windows, blended smoothly.

Windows start at multiples of the backbone's stride, so a window sees the image on the same grid as the whole would.
Blending weights are separable and sum to one by construction: no buffer of sums is kept. For a convolutional backbone
the result equals the untiled one wherever its receptive field lies within a window; a ViT attends over its whole input,
so its windows see less context than the whole image would give, and the features differ throughout.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .errors import InputError, MemoryBudgetError, shortened
from .files import new_file
from .gateway import gateway
from .images import ImageLike, load, padded_size
from .interfaces import DenseFeatures, Size
from .numerics import require_finite

if TYPE_CHECKING:
    from .model import DenseModel

_UNITS = {
    "": 1,
    "B": 1,
    "KB": 1e3,
    "MB": 1e6,
    "GB": 1e9,
    "TB": 1e12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
}
_MEMORY = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")

# Floats per pixel beside the output's channels: the activations of a CNN's stem, a ViT's tokens, the picture itself.
# Measured with benchmarks/memory.py on efficientnet-lite0 + upsample and dinov2-s14 + dpt.
_ACTIVATIONS = 400
_COPIES = 3  # of the output channels: the decoder's last two tensors and the blend


def parse_memory(amount: str | int) -> int:
    """Bytes of "2GB", "500 MB", "1.5GiB" or a number.

    Raises:
        InputError: not a size, or below one byte.
    """
    if isinstance(amount, str):
        match = _MEMORY.fullmatch(amount)
        if match is None or match[2].upper() not in _UNITS:
            raise InputError(
                f'max_memory={shortened(repr(amount), 80)} is not a size such as "2GB", "500MB" or "1.5GiB"'
            )
        amount = int(float(match[1]) * _UNITS[match[2].upper()])
    if amount < 1:
        raise InputError(f"max_memory={amount} bytes is not above 0")
    return amount


@dataclass(frozen=True)
class Axis:
    """Windows along one side of an image of `length` pixels."""

    length: int
    window: int
    overlap: int
    starts: tuple[int, ...]

    @classmethod
    def plan(cls, length: int, window: int, overlap: int, stride: int) -> Axis:
        """As few windows as cover `length` with at least `overlap` between neighbours, evenly spread."""
        padded = -(-length // stride) * stride
        if window >= padded:
            return cls(length, padded, overlap, (0,))
        count = -(-(padded - overlap) // (window - overlap))
        last = padded - window
        starts = {round(index * last / (count - 1) / stride) * stride for index in range(count)}
        return cls(length, window, overlap, tuple(sorted(starts)))

    def spans(self, cells: int) -> Iterator[tuple[slice, slice, Tensor]]:
        """For each window: its pixels, the cells it gives on a grid of `cells` over the length, and their weights."""
        edges = [(start, min(start + self.window, self.length)) for start in self.starts]
        spans = [(round(a * cells / self.length), round(b * cells / self.length)) for a, b in edges]
        centres = (torch.arange(cells, dtype=torch.float64) + 0.5) * self.length / cells
        raw = []
        for (a, b), (first, last) in zip(edges, spans, strict=True):
            weight = torch.ones(cells, dtype=torch.float64)
            if a > 0:
                weight = weight.minimum((centres - a) / self.overlap)
            if b < self.length:
                weight = weight.minimum((b - centres) / self.overlap)
            inside = torch.zeros(cells, dtype=torch.float64)
            inside[first:last] = weight[first:last].clamp_min(1e-6)
            raw.append(inside)
        total = torch.stack(raw).sum(0)
        for (a, b), (first, last), weight in zip(edges, spans, raw, strict=True):
            if last > first:
                yield slice(a, b), slice(first, last), (weight / total)[first:last].float()

    def shares(self) -> Iterator[tuple[slice, slice]]:
        """For each window: its pixels, and those that are its own: neighbours meet in the middle of their overlap."""
        edges = [(start, min(start + self.window, self.length)) for start in self.starts]
        inner = [(left[1] + right[0]) // 2 for left, right in pairwise(edges)]
        for (a, b), first, last in zip(edges, [0, *inner], [*inner, self.length], strict=True):
            yield slice(a, b), slice(first, last)


@dataclass(frozen=True)
class Plan:
    """Windows over an image."""

    rows: Axis
    columns: Axis

    def __len__(self) -> int:
        return len(self.rows.starts) * len(self.columns.starts)

    def shares(self) -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice]]]:
        """For each window: its pixels, and those that no other window owns."""
        for rows, own_rows in self.rows.shares():
            for columns, own_columns in self.columns.shares():
                yield (rows, columns), (own_rows, own_columns)

    def tiles(self, grid: Size) -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice], Tensor]]:
        """For each window: its pixels, its cells on an output grid, and the weights [h, w] of those cells."""
        for pixel_rows, rows, down in self.rows.spans(grid[0]):
            for pixel_columns, columns, across in self.columns.spans(grid[1]):
                yield (pixel_rows, pixel_columns), (rows, columns), down[:, None] * across[None, :]


def plan(model: DenseModel, image_size: Size, max_memory: str | int, channels: int | None = None) -> Plan:
    """Windows whose forward stays within `max_memory` beside an output of `channels` channels at the image's size.

    Raises:
        MemoryBudgetError: the smallest useful window does not fit; the message has the least that does.
    """
    budget = parse_memory(max_memory)
    stride = model.backbone.stride
    per_pixel = 4 * (_COPIES * model.dim + _ACTIVATIONS)
    output = 4 * (channels or 0) * image_size[0] * image_size[1]
    least = 4 * stride
    room = int(max(0, (budget - output) / per_pixel) ** 0.5) // stride * stride
    padded = padded_size(image_size, stride)
    if padded[0] * padded[1] * per_pixel + output <= budget:
        return Plan(
            Axis.plan(image_size[0], padded[0], stride, stride),
            Axis.plan(image_size[1], padded[1], stride, stride),
        )
    if room < least:
        least_budget = output + per_pixel * least**2
        raise MemoryBudgetError(
            f"max_memory={budget / 1e9:.3g} GB is not enough for {image_size[0]} x {image_size[1]} pixels: the result "
            f"takes {output / 1e9:.3g} GB, the smallest window ({least} pixels) {per_pixel * least**2 / 1e9:.3g} GB. "
            f"Ask for {least_budget / 1e9:.3g} GB or a smaller `size`, or write the features to a file with "
            "dense_ctx.tiling.write_features"
        )
    overlap = max(stride, room // 4 // stride * stride)
    return Plan(Axis.plan(image_size[0], room, overlap, stride), Axis.plan(image_size[1], room, overlap, stride))


def map_tiles(
    model: DenseModel,
    image: Tensor,
    function: Callable[[DenseFeatures], Tensor],
    windows: Plan,
    size: Size | None = None,
) -> Tensor:
    """Blend a function of the features over windows: [B, K, *size], without the whole image's features in memory.

    Args:
        image: [B, 3, H, W] in [0, 1].
        function: takes a window's DenseFeatures, gives [B, K, h, w] at its pixels' size (class scores, depth).
        windows: from `plan`.
        size: (h, w) of the result; default the image's.
    """
    size = size or (image.shape[-2], image.shape[-1])
    result: Tensor | None = None
    for pixels, cells, weights in windows.tiles(size):
        values = function(model(image[:, :, pixels[0], pixels[1]], size=(weights.shape[0], weights.shape[1])))
        if result is None:
            result = values.new_zeros(values.shape[0], values.shape[1], *size)
        result[:, :, cells[0], cells[1]] += values * weights.to(values)
    if result is None:
        raise InputError(f"nothing to decode at size {size}")
    return result


def tiled_forward(model: DenseModel, image: Tensor, max_memory: str | int, size: Size | None = None) -> DenseFeatures:
    """`DenseModel.forward` in windows. `cls` is the windows' mean, weighted by the area each stands for."""
    image_size = (image.shape[-2], image.shape[-1])
    area = (size or image_size)[0] * (size or image_size)[1] / (image_size[0] * image_size[1])
    windows = plan(model, image_size, max_memory, max(1, round(model.dim * area * len(image))))
    if len(windows) == 1:
        whole: DenseFeatures = model(image, size=size)
        return whole
    stride = model.backbone.strides[-1]
    grid = tuple(side // stride for side in padded_size(image_size, model.backbone.stride))
    padded = Plan(
        *(
            Axis(
                -(-axis.length // model.backbone.stride) * model.backbone.stride,
                axis.window,
                axis.overlap,
                axis.starts,
            )
            for axis in (windows.rows, windows.columns)
        )
    )
    cells = iter(list(padded.tiles((grid[0], grid[1]))))
    patches: list[Tensor] = []
    summary: list[Tensor] = []

    def keep(features: DenseFeatures) -> Tensor:
        _, window, weights = next(cells)
        if not patches:
            patches.append(features.patches.new_zeros(*features.patches.shape[:2], grid[0], grid[1]))
        patches[0][:, :, window[0], window[1]] += features.patches * weights.to(features.patches)
        if features.cls is not None:
            summary.append(features.cls * float(weights.sum()) / (grid[0] * grid[1]))
        return features.pixels

    pixels = map_tiles(model, image, keep, windows, size)
    whole_size = padded_size(image_size, model.backbone.stride)
    extent = (image_size[0] / whole_size[0], image_size[1] / whole_size[1])
    return DenseFeatures(pixels, patches[0], torch.stack(summary).sum(0) if summary else None, extent)


@torch.no_grad()
@gateway
def write_features(
    model: DenseModel,
    image: ImageLike,
    path: str | os.PathLike[str],
    max_memory: str | int = "2GB",
    dtype: str = "float16",
) -> Path:
    """Write an image's pixel features to a .npy file, window by window; read it with `numpy.load(path, mmap_mode="r")`.

    The array is [H, W, dim] (a pixel's vector is one run of the file). It appears under its name only when complete.

    Args:
        dtype: "float16" or "float32".

    Raises:
        FileError: no room, or no right to write.
        MemoryBudgetError: not even one small window fits.
        NonFiniteError: features that are NaN or infinite, or that float16 cannot hold.
    """
    if dtype not in ("float16", "float32"):
        raise InputError(f"dtype={dtype!r} is not 'float16' or 'float32'")
    path = Path(path)
    pixels = load(image)[None]
    size = (pixels.shape[-2], pixels.shape[-1])
    windows = plan(model, size, max_memory)
    size_in_bytes = size[0] * size[1] * model.dim * np.dtype(dtype).itemsize
    with new_file(path, f"{size_in_bytes / 1e9:.3g} GB of features to {path}") as partial:
        _reserve(partial, size_in_bytes)
        np.lib.format.open_memmap(partial, mode="w+", dtype=np.dtype(dtype), shape=(*size, model.dim))
        for window, cells, weights in windows.tiles(size):
            features = model(pixels[:, :, window[0], window[1]]).pixels[0]
            half = (features * weights.to(features)).movedim(0, -1).to(getattr(torch, dtype))
            require_finite(f"The features in {dtype}", 'dtype="float32" holds larger numbers', values=half)
            values = half.cpu().numpy()
            # opened and closed for each window: mapped pages count as this process' memory
            array = np.lib.format.open_memmap(partial, mode="r+")
            array[cells[0], cells[1]] += values
            array.flush()
            del array
    return path


def _reserve(path: Path, size_in_bytes: int) -> None:
    """Refuse a disk without room at once: a mapped file that outgrows its disk kills the process with a signal."""
    import shutil

    free = shutil.disk_usage(path.parent).free
    if free < size_in_bytes:
        raise OSError(f"the disk has {free / 1e9:.3g} GB free")
