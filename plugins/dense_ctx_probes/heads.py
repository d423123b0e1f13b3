"""Small networks that predict from decoder features (pixels), encoder features (patches), or both."""

from __future__ import annotations

from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from dense_ctx.errors import InputError
from dense_ctx.interfaces import DenseFeatures

Reads = Literal["pixels", "patches", "both"]
Norm = Literal["batch", "none"]


def check_reads(reads: str) -> None:
    """Refuse a value that is not one of `Reads`."""
    if reads not in ("pixels", "patches", "both"):
        raise InputError(f"reads={reads!r}: expected 'pixels' (decoder), 'patches' (encoder) or 'both'")


class ConvHead(nn.Module):
    """BatchNorm and a k x k convolution of the pixels, plus BatchNorm and a 1 x 1 one of the patches, upsampled.

    With one source and kernel 1 this is the usual linear probe; with both and kernel 5 LILA's normals probe.

    Args:
        dims: channels of (pixels, patches).
        outputs: channels of the result.
        reads: which of the two.
        kernel: side of the pixels' convolution, odd.
        norm: "batch" or "none".
    """

    def __init__(
        self, dims: tuple[int, int], outputs: int, reads: Reads = "both", kernel: int = 1, norm: Norm = "batch"
    ) -> None:
        super().__init__()
        self.pixels = _conv(dims[0], outputs, kernel, norm) if reads != "patches" else None
        self.patches = _conv(dims[1], outputs, 1, norm) if reads != "pixels" else None

    def forward(self, features: DenseFeatures) -> Tensor:
        """[B, outputs, H, W] on the pixel grid."""
        parts: list[Tensor] = []
        if self.pixels is not None:
            parts.append(self.pixels(features.pixels.float()))
        if self.patches is not None:
            parts.append(features.on_pixels(self.patches(features.patches.float())))
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]


def _conv(dim: int, outputs: int, kernel: int, norm: Norm) -> nn.Sequential:
    conv = nn.Conv2d(dim, outputs, kernel, padding=kernel // 2)
    # small beside unit-variance features, whatever the kernel: predictions start undecided
    nn.init.normal_(conv.weight, std=0.01 / kernel)
    nn.init.zeros_(conv.bias if conv.bias is not None else torch.empty(0))
    return nn.Sequential(nn.BatchNorm2d(dim) if norm == "batch" else nn.Identity(), conv)


class CrossAttention(nn.Module):
    """Multi-head attention of queries [B, Q, D] on keys [B, N, D], without biases but for the output's."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.projq, self.projk, self.projv = (nn.Linear(dim, dim, bias=False) for _ in range(3))
        self.proj = nn.Linear(dim, dim)

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """[B, Q, D]."""
        q, k, v = (
            rearrange(part, "b n (heads d) -> b heads n d", heads=self.heads)
            for part in (self.projq(queries), self.projk(keys), self.projv(keys))
        )
        mixed = functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.proj(rearrange(mixed, "b heads n d -> b n (heads d)"))
        return out


class AttentionHead(nn.Module):
    """Learned queries gather a prototype each from the image; a pixel's logit is its inner product with it.

    FlowFeat's probe, which LILA takes over (arXiv 2604.26488, section 4.3): the map is made smaller for the attention,
    the inner product is taken at full size and divided by the number of channels.

    Args:
        dim: channels of the map.
        queries: one a class (or bin).
        heads: of the attention; must divide `dim`.
        downscale: factor by which keys and values are made smaller.
        with_norm: LayerNorm of the map, the queries and the prototypes.
    """

    def __init__(self, dim: int, queries: int, heads: int = 8, downscale: int = 1, with_norm: bool = True) -> None:
        super().__init__()
        if dim % heads or downscale < 1:
            raise InputError(f"heads={heads} must divide the {dim} channels, downscale={downscale} be at least 1")
        self.downscale = downscale
        self.queries = nn.Parameter(0.02 * torch.randn(1, queries, dim))
        self.cross_attn = CrossAttention(dim, heads)
        self.norm, self.norm1, self.norm2 = (nn.LayerNorm(dim) if with_norm else nn.Identity() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """[B, D, H, W] -> logits [B, queries, H, W]."""
        _, dim, height, width = x.shape
        small = x
        if self.downscale > 1:
            size = (max(1, height // self.downscale), max(1, width // self.downscale))
            small = functional.interpolate(x, size=size, mode="bilinear", align_corners=False)
        keys = self.norm(rearrange(small, "b d h w -> b (h w) d"))
        queries = self.norm1(self.queries).expand(len(x), -1, -1)
        prototypes = self.norm2(self.cross_attn(queries, keys))
        pixels = self.norm(rearrange(x, "b d h w -> b (h w) d"))
        scores: Tensor = rearrange(prototypes @ pixels.transpose(1, 2), "b q (h w) -> b q h w", h=height)
        return scores / dim


class AttentionSum(nn.Module):
    """High-resolution logits by `AttentionHead` on the pixels, plus a 1 x 1 convolution of the patches, upsampled."""

    def __init__(
        self, dims: tuple[int, int], outputs: int, reads: Reads, heads: int, downscale: int, with_norm: bool
    ) -> None:
        super().__init__()
        heads = next(h for h in range(heads, 0, -1) if dims[0] % h == 0)
        self.attention = AttentionHead(dims[0], outputs, heads, downscale, with_norm) if reads != "patches" else None
        self.patches = _conv(dims[1], outputs, 1, "batch") if reads != "pixels" else None

    def forward(self, features: DenseFeatures) -> Tensor:
        """[B, outputs, H, W] on the pixel grid."""
        parts: list[Tensor] = []
        if self.attention is not None:
            parts.append(self.attention(features.pixels.float()))
        if self.patches is not None:
            parts.append(features.on_pixels(self.patches(features.patches.float())))
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]
