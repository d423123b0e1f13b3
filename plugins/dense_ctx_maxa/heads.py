"""Baselines for the adapter: a convolutional head after self-attention, and a linear one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from dense_ctx.errors import InputError
from dense_ctx.interfaces import Decoder, Features, Size, resample
from dense_ctx.persistence.file_args import CHANNELS, LAYERS

from .maps import joined_map, layer_indices
from .upscale import Upscale


class CnnHead(Decoder):
    """The paper's baseline: self-attention among the cells, then the network of appendix A.6, eight times as large.

    Its output is 8 times the feature grid, so another size is interpolated.

    Args:
        dims, strides: the backbone's.
        dim: output channels.
        width: of the attention; the paper does not give it.
        heads: of the attention.
        cnn_width: of the convolutions; default max(width / 4, dim).
        layers: maps to read, joined on the finest grid of them; None: all.
    """

    layers: tuple[int, ...]

    file_args: ClassVar[Mapping[str, Any] | None] = {
        "dim": CHANNELS, "width": CHANNELS, "heads": range(1, 129), "cnn_width": CHANNELS, "layers": LAYERS,
    }  # fmt: skip

    def __init__(
        self,
        dims: Sequence[int],
        strides: Sequence[int],
        dim: int = 32,
        width: int = 256,
        heads: int = 8,
        cnn_width: int | None = None,
        layers: Sequence[int] | None = (-1,),
    ) -> None:
        super().__init__()
        if dim < 1:
            raise InputError(f"dim={dim}: the head needs at least one output channel")
        if heads < 1 or width < 4 or width % heads:
            raise InputError(f"width={width}, heads={heads}: expected a width of at least 4 that the heads divide")
        if cnn_width is not None and cnn_width < 1:
            raise InputError(f"cnn_width={cnn_width}: expected at least 1")
        self.dim, self.layers, self.heads = dim, layer_indices(layers, len(dims)), heads
        channels = sum(dims[layer] for layer in self.layers)
        self.norm, self.project = nn.LayerNorm(channels), nn.Linear(channels, width)
        self.inner, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.upscale = Upscale(width, cnn_width or max(width // 4, dim), dim)

    def forward(self, features: Features, images: Tensor, size: Size) -> Tensor:
        """Decode to [B, dim, *size]."""
        maps = joined_map(features, self.layers)
        height = maps.shape[-2]
        x = self.project(self.norm(rearrange(maps, "b c h w -> b (h w) c")))
        qkv = self.qkv(self.inner(x))
        query, key, value = rearrange(qkv, "b n (three heads d) -> three b heads n d", three=3, heads=self.heads)
        attended = functional.scaled_dot_product_attention(query, key, value)
        x = x + self.out(rearrange(attended, "b heads n d -> b n (heads d)"))
        return resample(self.upscale(rearrange(x, "b (h w) c -> b c h w", h=height)), size)


class LinearHead(Decoder):
    """A 1 x 1 convolution of the features, upsampled bilinearly: linear probing.

    Args:
        dims, strides: the backbone's.
        dim: output channels.
        layers: maps to read, joined on the finest grid of them; None: all.
    """

    layers: tuple[int, ...]

    file_args: ClassVar[Mapping[str, Any] | None] = {"dim": CHANNELS, "layers": LAYERS}

    def __init__(
        self, dims: Sequence[int], strides: Sequence[int], dim: int = 32, layers: Sequence[int] | None = (-1,)
    ) -> None:
        super().__init__()
        if dim < 1:
            raise InputError(f"dim={dim}: the head needs at least one output channel")
        self.dim, self.layers = dim, layer_indices(layers, len(dims))
        self.project = nn.Conv2d(sum(dims[layer] for layer in self.layers), dim, 1)

    def forward(self, features: Features, images: Tensor, size: Size) -> Tensor:
        """Decode to [B, dim, *size]."""
        return resample(self.project(joined_map(features, self.layers)), size)
