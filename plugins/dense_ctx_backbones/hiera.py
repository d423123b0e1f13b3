"""Hiera at any size. timm fixes its token geometry when it is built; here it is made anew for each input size.

Rule for position embeddings: bicubic, antialiased, to the new token grid (as timm does for its "abs win" variants).
H and W divide by 32: the last stage's stride, which is also one mask unit of 8 x 8 tokens.
"""

from __future__ import annotations

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
        if size == self.image_size:
            return super().forward(images)
        net: Any = self.net
        native = {key: getattr(net, key) for key in ("unroll", "reroll", "tokens_spatial_shape", "mask_spatial_shape")}
        table = net.pos_embed
        try:
            self._set(_geometry(self, size))
            if net.pos_embed_win is None:
                old, new = native["tokens_spatial_shape"], net.tokens_spatial_shape
                grid = rearrange(table, "1 (h w) c -> 1 c h w", h=old[0])
                grid = functional.interpolate(grid.float(), size=tuple(new), mode="bicubic", antialias=True)
                # a plain tensor in the parameter's place for this call only
                del net.pos_embed
                net.pos_embed = rearrange(grid.to(table.dtype), "1 c h w -> 1 (h w) c")
            return super().forward(images)
        finally:
            if net.pos_embed is not table:
                del net.pos_embed
                net.register_parameter("pos_embed", table)
            self._set(native)

    def _set(self, values: dict[str, Any]) -> None:
        for key, value in values.items():
            setattr(self.net, key, value)


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
