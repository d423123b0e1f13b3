"""FeatUp (Fu, Hamilton et al., 2403.10516): four stages of joint bilateral upsampling with learned kernels.

Each stage doubles the map: bicubic, then a weighted mean of 7 x 7 neighbours. The weights are a learned similarity of
the image's colours times a Gaussian of the distance, and a correction. The other variant of the paper, a network fitted
to one image, is not here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from dense_ctx_dpt import resizing
from dense_ctx_dpt.strips import by_rows
from torch import Tensor, nn
from torch.nn import functional

from dense_ctx.interfaces import Size

from .base import LAYER, Upsampler, reflected
from .blocks import rows_of

RADIUS, KEYS = 3, 32
NEIGHBOURS = (2 * RADIUS + 1) ** 2


class FeatUp(Upsampler):
    """A stack of four joint bilateral upsamplings, 16 times the map; then bilinear to the size asked for.

    Args:
        dims, strides: the backbone's.
        layer: index of the map to read, negative ones from the end.
        norm: a layer norm over the map's channels first, as the files that are not of the folder `no_norm` have it.
    """

    file_args: ClassVar[Mapping[str, Any] | None] = {"layer": LAYER, "norm": bool}

    def __init__(self, dims: Sequence[int], strides: Sequence[int], layer: int = -1, norm: bool = True) -> None:
        super().__init__(dims, layer)
        self.norm = nn.LayerNorm(self.dim) if norm else None
        self.up1, self.up2, self.up3, self.up4 = (Stage() for _ in range(4))
        self.fixup_proj = nn.Sequential(nn.Dropout2d(0.2), nn.Conv2d(self.dim, self.dim, 1))

    def upsample(self, low: Tensor, guidance: Tensor, size: Size) -> Tensor:
        """The map through all stages, plus a tenth of a learned mixture of its channels."""
        x = low if self.norm is None else self.norm(low.movedim(1, -1)).movedim(-1, 1)
        for stage in (self.up1, self.up2, self.up3, self.up4):
            twice = (2 * x.shape[-2], 2 * x.shape[-1])
            x = stage(x, functional.adaptive_avg_pool2d(guidance, twice))
        return resizing.resize(x + 0.1 * self.fixup_proj(x), size)


class Stage(nn.Module):
    """Double a map: bicubic, then a mean of neighbours whose weights come from the image."""

    def __init__(self) -> None:
        super().__init__()
        self.range_temp = nn.Parameter(torch.tensor(0.0))
        self.sigma_spatial = nn.Parameter(torch.tensor(1.0))
        self.range_proj = _perceptron(3, KEYS)
        self.fixup_proj = _perceptron(3 + NEIGHBOURS, NEIGHBOURS)

    def forward(self, low: Tensor, guidance: Tensor) -> Tensor:
        """[B, C, h, w] and the image at [B, 3, 2 h, 2 w] to [B, C, 2 h, 2 w]."""
        size = (guidance.shape[-2], guidance.shape[-1])
        kernel = self._kernel(guidance)
        large = functional.interpolate(low, size=size, mode="bicubic", align_corners=False)
        padded = reflected(large, RADIUS)

        def blurred(start: int, stop: int) -> Tensor:
            total = torch.zeros_like(large[:, :, start:stop])
            for index, part in enumerate(_shifted(padded[:, :, start : stop + 2 * RADIUS])):
                total = total.addcmul_(kernel[:, index, None, start:stop], part)
            return total

        # small blocks stay in a CPU's cache while 49 neighbours are added
        return by_rows(blurred, size[0], rows_of(2 * large[:, :, 0].numel()))

    def _kernel(self, guidance: Tensor) -> Tensor:
        """The weights [B, 49, H, W]."""
        keys = self.range_proj(guidance)
        products = [(part * keys).sum(1) for part in _shifted(reflected(keys, RADIUS))]
        temperature = self.range_temp.exp().clamp(1e-4, 1e4)
        likeness = (temperature * torch.stack(products, 1)).float().softmax(1).to(guidance.dtype)
        steps = torch.linspace(-1, 1, 2 * RADIUS + 1, device=guidance.device)
        distances = (steps[:, None].square() + steps.square()).flatten()
        near = (-distances / (2 * self.sigma_spatial.float().square())).exp()
        weights = likeness * near.to(likeness)[:, None, None]
        weights = weights / weights.sum(1, keepdim=True).clamp_min(1e-7)
        correction: Tensor = self.fixup_proj(torch.cat([weights, guidance], 1))
        return weights + 0.1 * correction


def _perceptron(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, width, 1), nn.GELU(), nn.Dropout2d(0.1), nn.Conv2d(width, width, 1))


def _shifted(padded: Tensor) -> list[Tensor]:
    """The 49 views of a padded map, row by row of the neighbourhood."""
    height, width = padded.shape[-2] - 2 * RADIUS, padded.shape[-1] - 2 * RADIUS
    side = range(2 * RADIUS + 1)
    return [padded[:, :, down : down + height, right : right + width] for down in side for right in side]
