"""Hiera at any size. timm fixes its token geometry at construction; here it is computed for each input size.

Rule for position embeddings: bicubic, antialiased, to the new token grid (as timm does for its "abs win" variants).
H and W divide by 32: the last stage's stride, which is also one mask unit of 8 x 8 tokens.
"""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import Any

from einops import rearrange
from timm.models.hiera import Reroll, Unroll
from torch import Tensor
from torch.nn import functional

from dense_ctx.interfaces import Features, Size

from .timm_backbone import TimmBackbone


class HieraBackbone(TimmBackbone):
    """timm's `hiera_*`; arguments as `TimmBackbone`."""

    def forward(self, images: Tensor) -> Features:
        """Encode normalised images [B, 3, H, W], H and W multiples of 32."""
        size = (images.shape[-2], images.shape[-1])
        if size == self.image_size or self.resize:
            return super().forward(images)
        net: Any = copy.copy(self.net)  # the same weights and blocks; what is set on it is this call's own
        net._parameters, net._modules = dict(net._parameters), dict(net._modules)
        old, table = net.tokens_spatial_shape, net.pos_embed
        for key, value in _geometry(self, size).items():
            setattr(net, key, value)
        if net.pos_embed_win is None:
            grid = rearrange(table, "1 (h w) c -> 1 c h w", h=old[0])
            new = tuple(net.tokens_spatial_shape)
            grid = functional.interpolate(grid.float(), size=new, mode="bicubic", antialias=True)
            del net.pos_embed  # a plain tensor in the parameter's place
            net.pos_embed = rearrange(grid.to(table.dtype), "1 c h w -> 1 (h w) c")
        return self._encode(net, images)


@lru_cache(maxsize=32)
def _geometry(backbone: HieraBackbone, size: Size) -> dict[str, Any]:
    net: Any = backbone.net
    pools = [net.q_stride] * len(net.stage_ends[:-1])
    tokens = [side // step for side, step in zip(size, net.patch_stride, strict=True)]
    return {
        "unroll": Unroll(size, net.patch_stride, pools),
        "reroll": Reroll(size, net.patch_stride, pools, net.stage_ends, net.q_pool),
        "tokens_spatial_shape": tokens,
        "mask_spatial_shape": [side // unit for side, unit in zip(tokens, net.mask_unit_size, strict=True)],
    }
