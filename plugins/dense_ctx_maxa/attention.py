"""Cross-attention from positions to features, with a Gaussian of their distance (eq. 2 and 3 of the paper)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from dense_ctx.interfaces import Size

from .fused_attention import attend, gaussian
from .positions import CHANNELS, squared_distances

Sigma = Literal["head", "shared", "none"]

CHUNK_BYTES = 64_000_000  # of attention weights that exist at once
FIRST, LAST = 0.04, 0.16  # initial sigmas, spread over the heads, in units of the image's sides


class GaussianBias(nn.Module):
    """M_ij of eq. 3 for each head, plus one learned number per head and cell.

    Args:
        heads: of the attention.
        grid: (h, w) of the features it is trained on; for another grid the learned numbers are interpolated.
        sigma: "head" (one learned sigma a head), "shared" (one for all) or "none" (no Gaussian).
    """

    def __init__(self, heads: int, grid: Size, sigma: Sigma) -> None:
        super().__init__()
        self.heads = heads
        self.cells = nn.Parameter(torch.zeros(1, heads, *grid))
        self.log_sigma: nn.Parameter | None = None
        if sigma != "none":
            count = heads if sigma == "head" else 1
            share = torch.linspace(0, 1, count) if count > 1 else torch.tensor([0.5])
            self.log_sigma = nn.Parameter(math.log(FIRST) + share * math.log(LAST / FIRST))

    def cell_bias(self, grid: Size) -> Tensor:
        """The learned numbers on a grid, [1, heads, 1, h * w]."""
        cells: Tensor = self.cells
        if tuple(cells.shape[-2:]) != tuple(grid):
            cells = functional.interpolate(cells, size=grid, mode="bilinear", align_corners=False)
        return rearrange(cells, "one heads h w -> one heads 1 (h w)")

    def forward(self, queries: Tensor, cells: Tensor, cell_bias: Tensor) -> Tensor:
        """[1, heads, Q, K] for query points [Q, 2] and cell centres [K, 2]."""
        if self.log_sigma is None:
            return cell_bias.expand(-1, -1, len(queries), -1)
        # in float32, whatever the weights are
        return gaussian(squared_distances(queries, cells), self.log_sigma.float())[None].to(cell_bias.dtype) + cell_bias


class CrossAttention(nn.Module):
    """One layer: queries attend to all feature cells, then a two-layer perceptron; both with residual connections.

    Args:
        channels: of the features.
        width: D, of queries, keys and values.
        heads: of the attention.
        first: queries are the 16-d positions themselves, so there is nothing to add the result to.
        bias: the first layer's Gaussian; None: the layer sees everything alike.
    """

    def __init__(self, channels: int, width: int, heads: int, first: bool, bias: GaussianBias | None) -> None:
        super().__init__()
        self.heads, self.first, self.bias = heads, first, bias
        self.norm = nn.LayerNorm(channels)
        self.project = nn.Linear(channels + CHANNELS, 3 * width)
        # a bias of the keys would add the same to all of a query's logits
        self.key = nn.Linear(3 * width, width, bias=False)
        self.value = nn.Linear(3 * width, width)
        self.query_norm = nn.Identity() if first else nn.LayerNorm(width)
        self.query = nn.Linear(CHANNELS if first else width, width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def read(self, whitened: Tensor, encoded: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values, each [B, heads, K, D / heads], of features [B, K, C] and their positions [K, 16].

        whitened: the features less their mean over channels, divided by their deviation, which all layers share. What
        this layer's LayerNorm does beyond that goes into the projection's weights: the features are the largest tensor
        there is, and neither a scaled copy of them nor one beside their positions is made.
        """
        wide, narrow = self.project.weight.split([whitened.shape[-1], CHANNELS], dim=1)
        shift = functional.linear(encoded.to(wide.dtype), narrow, self.project.bias) + wide @ self.norm.bias
        inner = functional.linear(whitened, wide * self.norm.weight) + shift
        return self._split(self.key(inner)), self._split(self.value(inner))

    def forward(self, x: Tensor, points: Tensor, cells: Tensor, grid: Size, read: tuple[Tensor, Tensor]) -> Tensor:
        """Queries [B or 1, Q, 16 or D] at points [Q, 2] to [B, Q, D]; `read` as `read` gives it."""
        keys, values = read
        queries = self._split(self.query(self.query_norm(x))).expand(len(keys), -1, -1, -1)
        weighted = self._attend(queries, keys, values, points, cells, grid)
        attended = self.out(rearrange(weighted, "b heads q d -> b q (heads d)"))
        x = attended if self.first else x + attended
        out: Tensor = x + self.mlp(x)
        return out

    def _attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, points: Tensor, cells: Tensor, grid: Size
    ) -> Tensor:
        if self.bias is None:
            return functional.scaled_dot_product_attention(queries, keys, values)
        cell_bias = self.bias.cell_bias(grid)
        if torch.is_grad_enabled():  # scaled_dot_product_attention would keep the weights for the bias' gradient
            return attend(queries, keys, values, points, cells, self.bias.log_sigma, cell_bias)
        rows = max(1, CHUNK_BYTES // (4 * len(keys) * self.heads * len(cells)))
        parts = [
            functional.scaled_dot_product_attention(
                some, keys, values, attn_mask=self.bias(where, cells, cell_bias.to(some.dtype))
            )
            for some, where in zip(queries.split(rows, 2), points.split(rows), strict=True)
        ]
        return torch.cat(parts, dim=2)

    def _split(self, x: Tensor) -> Tensor:
        return rearrange(x, "b n (heads d) -> b heads n d", heads=self.heads)
