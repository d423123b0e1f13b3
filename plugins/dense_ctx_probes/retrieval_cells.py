"""Patch labels: the share of each class among a patch's pixels, or the mean of its values."""

from __future__ import annotations

import torch
from torch import Tensor

from dense_ctx.interfaces import Size


def histograms(target: Tensor, grid: Size, extent: tuple[float, float], classes: int) -> tuple[Tensor, Tensor]:
    """Class shares [h * w, classes] of an image's patches, float32, and how many annotated pixels each holds.

    Args:
        target: int64 [H, W] at any resolution, -1 ignored.
        grid: (h, w) of the patches. extent: share of it that the image covers.
    """
    patch, valid = patch_of((target.shape[-2], target.shape[-1]), grid, extent), target >= 0
    cells = grid[0] * grid[1]
    slot = (patch * classes + target)[valid]
    counts = torch.bincount(slot, minlength=cells * classes).view(cells, classes).float()
    share = counts.sum(1)
    return counts / share.clamp_min(1)[:, None], share


def means(target: Tensor, grid: Size, extent: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """As `histograms`, of values float [K, H, W], NaN ignored: their means [h * w, K]."""
    patch, valid = patch_of((target.shape[-2], target.shape[-1]), grid, extent), target.isfinite().all(0)
    share = torch.bincount(patch[valid], minlength=grid[0] * grid[1]).float()
    sums = torch.zeros(len(share), len(target)).index_add_(0, patch[valid], target[:, valid].T.float())
    return sums / share.clamp_min(1)[:, None], share


def patch_of(size: Size, grid: Size, extent: tuple[float, float]) -> Tensor:
    """The patch under each pixel, int64 [H, W]: the grid covers the image and what it was padded with."""
    axes = []
    for length, cells, share in zip(size, grid, extent, strict=True):
        full = max(length, round(length / share))
        axes.append((torch.arange(length) * cells // full).clamp_max(cells - 1))
    return axes[0][:, None] * grid[1] + axes[1]
