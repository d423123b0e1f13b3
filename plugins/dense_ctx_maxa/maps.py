"""Which of a backbone's maps a head reads, and how several become one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from dense_ctx.errors import InputError
from dense_ctx.interfaces import Features, Size


def layer_indices(layers: Sequence[int] | None, count: int) -> tuple[int, ...]:
    """Indices from 0 of the maps asked for; negative ones count from the deepest. None: all.

    Raises:
        InputError: none, or one the backbone does not have.
    """
    if layers is None:
        return tuple(range(count))
    if not layers or any(not -count <= layer < count for layer in layers):
        raise InputError(f"layers={list(layers)}: the backbone has maps 0 to {count - 1} (or -{count} to -1)")
    return tuple(layer % count for layer in layers)


def joined_map(features: Features, layers: Sequence[int]) -> Tensor:
    """The maps side by side on the finest grid of them, [B, sum of C, h, w]."""
    maps = [features.maps[layer] for layer in layers]
    grid = max((item.shape[-2], item.shape[-1]) for item in maps)
    return torch.cat([_at(item, grid) for item in maps], dim=1)


def joined(features: Features, layers: Sequence[int]) -> tuple[Tensor, Size]:
    """As `joined_map`, as tokens [B, h * w, C], with the grid (h, w)."""
    maps = joined_map(features, layers)
    return rearrange(maps, "b c h w -> b (h w) c"), (maps.shape[-2], maps.shape[-1])


def _at(x: Tensor, grid: Size) -> Tensor:
    if tuple(x.shape[-2:]) == tuple(grid):
        return x
    return functional.interpolate(x, size=grid, mode="bilinear", align_corners=False)
