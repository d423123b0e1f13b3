"""AnyUp (Wimmer et al., 2510.12764): one upsampler for the maps of any backbone.

Each pixel attends to the cells of the map near it, by weights that come from the image and, through filters that all
channels share, from the map's structure; so it does not matter how many channels there are or what they mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from dense_ctx_dpt.strips import by_rows
from torch import Tensor, nn
from torch.nn import functional

from dense_ctx.errors import InputError
from dense_ctx.interfaces import Size

from .base import HEADS, LAYER, WIDTH, Upsampler
from .blocks import Counts, attend, rows_of
from .encoders import Attention, Block, Rotation, encoder, require_width

KERNEL = 5  # of the filters over the map


class AnyUp(Upsampler):
    """Windowed attention of pixels to the map's cells, for a map of any backbone.

    Args:
        dims, strides: the backbone's.
        layer: index of the map to read, negative ones from the end.
        width: channels of queries and keys, a multiple of 8.
        heads: of the attention; their mean weights are applied.
        window: a pixel reads the cells that lie at most this share of the image's sides away from it; 0: all of them.

    Raises:
        InputError: an argument out of its range.
    """

    file_args: ClassVar[Mapping[str, Any] | None] = {
        "layer": LAYER, "width": WIDTH, "heads": HEADS, "window": (0.0, 1.0),
    }  # fmt: skip

    def __init__(
        self,
        dims: Sequence[int],
        strides: Sequence[int],
        layer: int = -1,
        width: int = 128,
        heads: int = 4,
        window: float = 0.1,
    ) -> None:
        super().__init__(dims, layer)
        require_width(width)
        if not 0 <= window <= 1:
            raise InputError(f"window={window}: expected a share of the image's sides, 0 to 1; 0 is no window")
        self.window = window
        self.image_encoder = encoder(3, width)
        self.key_encoder = encoder(width, width)
        self.query_encoder = encoder(width, width)
        self.key_features_encoder = nn.Sequential(
            Unification(width), *(Block(width, 1, bias=False, residual=True) for _ in range(2))
        )
        self.aggregation = encoder(2 * width, width, kernel=3)
        self.attention = Attention(width, heads)
        self.rope = Rotation(width)

    def upsample(self, low: Tensor, guidance: Tensor, size: Size) -> Tensor:
        """Weighted means of the map's cells."""
        grid = (low.shape[-2], low.shape[-1])
        pixels = self.rope(self.image_encoder(guidance))
        key = functional.adaptive_avg_pool2d(self.key_encoder(pixels), grid)
        query = functional.adaptive_avg_pool2d(self.query_encoder(pixels), size)
        structure = self.key_features_encoder(functional.normalize(low, dim=1))
        query, key = self.attention(query, self.aggregation(torch.cat([key, structure], 1)))
        tables = [near(a, b, self.window) if self.window else None for a, b in zip(size, grid, strict=True)]
        return attend(query, key, low[:, None], *tables)


def near(length: int, cells: int, share: float) -> Counts:
    """[length, cells]: 1 where a cell overlaps the window around a position's centre, else 0.

    In float32 like the published code, so that a window's edge that falls onto a cell's is rounded the same way.
    """
    centres = (np.arange(length, dtype=np.float32) + np.float32(0.5)) / np.float32(length)
    low, high = ((centres + np.float32(sign * share)).clip(0, 1) * np.float32(cells) for sign in (-1, 1))
    index = np.arange(cells)
    return ((index >= np.floor(low)[:, None]) & (index < np.ceil(high)[:, None])).astype(np.float32)


class Unification(nn.Module):
    """A map of any number of channels to `width` channels, by filters that all of its channels share.

    Each channel C is filtered by each of the K filters, and a softmax and a mean follow. The published code numbers the
    C x K results channel by channel and then reads them as K x C, so that the softmax is over mixtures of channels and
    filters. The weights were trained so, hence the same here.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.basis = nn.Parameter(torch.randn(width, 1, KERNEL, KERNEL))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] to [B, width, h, w]."""
        batch, channels, height, width = x.shape
        filters, edge = self.basis.flatten(1), KERNEL // 2
        padded = functional.pad(x, (edge,) * 4)
        inside = functional.pad(x.new_ones(1, 1, height, width), (edge,) * 4)

        def unified(start: int, stop: int) -> Tensor:
            rows = slice(start, stop + 2 * edge)
            patches = functional.unfold(padded[:, :, rows], KERNEL).unflatten(1, (channels, -1))
            results = torch.einsum("kp,bcpn->bckn", filters, patches).flatten(1, 2)
            results = results / functional.unfold(inside[:, :, rows], KERNEL).sum(1, keepdim=True)
            mixed: Tensor = results.unflatten(1, (len(filters), channels)).float().softmax(1).mean(2).to(x.dtype)
            return mixed.reshape(batch, -1, stop - start, width)

        return by_rows(unified, height, rows_of(batch * channels * len(filters) * width))
