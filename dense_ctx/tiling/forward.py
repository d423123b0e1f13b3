"""Large images in bounded memory: overlapping windows.

A tiled result equals the untiled one where a network's receptive field ends within a window. That is looked at, on the
image itself: where two neighbouring windows meet, both must give the same features; then the windows are joined there.
Networks that see farther (deep maps of a CNN, any ViT) are refused, or blended where their user accepts the difference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import MemoryBudgetError
from ..images import padded_size
from ..interfaces import DenseFeatures, Size
from ..progress import steps
from .budget import overlapping, plan, split_budget
from .windows import Plan

if TYPE_CHECKING:
    from ..model import DenseModel

_EQUAL = 1e-3  # of the largest value: how far apart two windows' features may be where they are joined


def settled(
    model: DenseModel, image: Tensor, windows: Plan, max_memory: str | int, size: Size | None = None, maps: bool = False
) -> Plan:
    """The windows as they may be used: as they are if a difference is accepted, else joined where it makes none.

    Args:
        image: [B, 3, H, W]. windows: from `plan`. size: (h, w) of the result.
        maps: the deepest map is part of the result too.

    Raises:
        MemoryBudgetError: neighbouring windows differ: the model sees farther than a window. Says by how much.
    """
    if len(windows) == 1 or split_budget(max_memory)[1]:
        return windows
    stride, room = model.backbone.stride, max(windows.rows.window, windows.columns.window)
    image_size = (image.shape[-2], image.shape[-1])
    cosines = []
    for share in (4, 2):
        joined = overlapping(image_size, room, stride, share, False)
        apart, cosine = _difference(model, image, joined, size or image_size, maps)
        if apart <= _EQUAL:
            return joined
        cosines.append(cosine)
    raise MemoryBudgetError(
        f"max_memory={max_memory!r} needs windows of {room} pixels, and the model sees farther: where two of them "
        f"overlap in this image, the cosine between their features is {max(cosines):.3f} (1 would be the same). Accept "
        f'that with max_memory="{max_memory} approximate", or give memory for the whole image'
    )


def _difference(model: DenseModel, image: Tensor, windows: Plan, size: Size, maps: bool) -> tuple[float, float]:
    """Of two neighbours: how far apart they are where they meet, and the mean cosine over their overlap."""
    columns = len(windows.columns.starts)
    axis = 2 if len(windows.rows.starts) > 1 else 3  # of a tensor: the one along which they are neighbours
    first = (len(windows.rows.starts) - 1) // 2 * columns + (columns // 2 if axis == 2 else (columns - 1) // 2)
    pair = (first, first + (columns if axis == 2 else 1))
    grids = [(windows, size)]
    if maps:
        grids.append(_on_patches(model, windows, (image.shape[-2], image.shape[-1])))
    places = [[tile for index, tile in enumerate(plan.tiles(grid)) if index in pair] for plan, grid in grids]
    if any(len(two) < 2 for two in places):
        return float("inf"), 0.0  # a result so small that a window has no cell of it
    both = []
    for (rows, across), _, weights in places[0]:
        features = model(image[:, :, rows, across], size=(weights.shape[0], weights.shape[1]))
        both.append((features.pixels, features.patches))
    apart, cosine = 0.0, 1.0
    for one, two, ((_, here, _), (_, there, _)) in zip(*both, places, strict=False):
        begin, end = there[axis - 2].start, here[axis - 2].stop  # of the overlap, in cells of the whole
        a = one.narrow(axis, begin - here[axis - 2].start, end - begin).float()
        b = two.narrow(axis, 0, end - begin).float()
        cosine = min(cosine, float(functional.cosine_similarity(a, b, dim=1).mean()))
        near = max(0, (end - begin) // 2 - 1)
        a, b = (item.narrow(axis, near, min(3, end - begin - near)) for item in (a, b))
        apart = max(apart, float((a - b).abs().max() / b.abs().max().clamp_min(1e-12)))
    return apart, cosine


def _on_patches(model: DenseModel, windows: Plan, image_size: Size) -> tuple[Plan, Size]:
    """The windows over the padded image, and the deepest map's grid."""
    whole, cell = padded_size(image_size, model.backbone.stride), model.backbone.strides[-1]
    rows, columns = (
        replace(axis, length=length) for axis, length in zip((windows.rows, windows.columns), whole, strict=True)
    )
    return Plan(rows, columns), (whole[0] // cell, whole[1] // cell)


def map_tiles(
    model: DenseModel,
    image: Tensor,
    function: Callable[[DenseFeatures], Tensor],
    windows: Plan,
    size: Size | None = None,
) -> Tensor:
    """Blend a function of the features over windows: [B, K, *size], without the whole image's features in memory.

    Args:
        image: [B, 3, H, W] in [0, 1]. windows: from `plan`. size: (h, w) of the result; default the image's.
        function: takes a window's DenseFeatures, gives [B, K, h, w] at its pixels' size (class scores, depth).
    """
    size = size or (image.shape[-2], image.shape[-1])
    result: Tensor | None = None
    for pixels, cells, weights in steps(windows.tiles(size), len(windows), "windows"):
        values = function(model(image[:, :, pixels[0], pixels[1]], size=(weights.shape[0], weights.shape[1])))
        if result is None:
            result = values.new_zeros(values.shape[0], values.shape[1], *size)
        result[:, :, cells[0], cells[1]] += values * weights.to(values)
        del values  # free it before the next window's forward
    return cast(Tensor, result)  # each cell is in a window


def tiled_forward(model: DenseModel, image: Tensor, max_memory: str | int, size: Size | None = None) -> DenseFeatures:
    """`DenseModel.forward` in windows. `cls` is the windows' mean, weighted by their areas."""
    image_size = (image.shape[-2], image.shape[-1])
    windows = plan(model, image_size, max_memory, model.dim, batch=len(image), size=size)
    windows = settled(model, image, windows, max_memory, size, maps=True)
    if len(windows) == 1:
        whole: DenseFeatures = model(image, size=size)
        return whole
    padded, grid = _on_patches(model, windows, image_size)
    cells = iter(list(padded.tiles((grid[0], grid[1]))))
    patches, summary = list[Tensor](), list[Tensor]()

    def keep(features: DenseFeatures) -> Tensor:
        _, window, weights = next(cells)
        if not patches:
            patches.append(features.patches.new_zeros(*features.patches.shape[:2], grid[0], grid[1]))
        patches[0][:, :, window[0], window[1]] += features.patches * weights.to(features.patches)
        if features.cls is not None:
            summary.append(features.cls * float(weights.sum()) / (grid[0] * grid[1]))
        return features.pixels

    pixels = map_tiles(model, image, keep, windows, size)
    extent = (image_size[0] / padded.rows.length, image_size[1] / padded.columns.length)
    cls = torch.stack(summary).sum(0) if summary else None
    return DenseFeatures(pixels, patches[0], cls, extent, image)
