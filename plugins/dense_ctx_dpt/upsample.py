"""A decoder without parameters: normalise, concatenate and upsample the maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from dense_ctx.errors import InputError
from dense_ctx.interfaces import Decoder, Features, Size
from dense_ctx.persistence.file_args import LAYERS

from . import resizing


class Upsample(Decoder):
    """Normalise each map per position, resize all to the finest grid, concatenate, upsample bilinearly.

    Args:
        dims, strides: the backbone's.
        layers: indices of the maps to use, negative ones from the end; default all.
        normalize: scale each map's vectors to unit length, so that no map dominates.
    """

    file_args: ClassVar[Mapping[str, Any] | None] = {"layers": LAYERS, "normalize": bool}

    def __init__(
        self,
        dims: Sequence[int],
        strides: Sequence[int],
        layers: Sequence[int] | None = None,
        normalize: bool = True,
    ) -> None:
        super().__init__()
        indices = range(len(dims)) if layers is None else layers
        if not indices or any(not -len(dims) <= layer < len(dims) for layer in indices):
            raise InputError(f"layers={layers}: the backbone has maps 0 to {len(dims) - 1} (or -{len(dims)} to -1)")
        self.layers: tuple[int, ...] = tuple(layer % len(dims) for layer in indices)
        self.normalize = normalize
        self.dim = sum(dims[layer] for layer in self.layers)

    def forward(self, features: Features, images: Tensor, size: Size) -> Tensor:
        """Decode to [B, sum of dims, *size]."""
        maps = [features.maps[layer] for layer in self.layers]
        if self.normalize:
            maps = [functional.normalize(item, dim=1) for item in maps]
        finest = max((item.shape[-2], item.shape[-1]) for item in maps)
        stacked = torch.cat([resizing.resize(item, finest) for item in maps], dim=1)
        return resizing.resize(stacked, size)
