"""The official interpolation of DINO's, DINOv2's and TIPSv2's position embeddings to other sizes.

timm interpolates every table bicubically WITH antialiasing, to the new grid. The official code of DINO, and of DINOv2
without registers, does it without antialiasing, by the scale factors (h + 0.1) / H and (w + 0.1) / W, where H x W is
the table's grid: their features at 224 pixels, from tables of 518, come out otherwise with antialiasing. DINOv2 with
registers antialiases and adds nothing, as timm does. TIPSv2's code resizes bilinearly with antialiasing.
"""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional

OFFSET = 0.1


def official_positions(net: Any) -> bool:
    """Let timm's `net` use the official rule where it is a DINO, a DINOv2 without registers or a TIPSv2; True if so."""
    name = net.pretrained_cfg.get("architecture") or ""
    if name.endswith("_tipsv2") and type(net) is VisionTransformer and net.dynamic_img_size:
        net.__class__ = BilinearVisionTransformer
        return True
    plain = name.endswith("_dinov2") or (name.endswith("_224") and net.pretrained_cfg.get("tag") == "dino")
    if not plain or type(net) is not VisionTransformer or net.no_embed_class or not net.dynamic_img_size:
        return False
    net.__class__ = OfficialVisionTransformer  # same parameters, another method; copies and pickles as any module
    return True


def interpolate(table: Tensor, grid: tuple[int, int], new: tuple[int, int], offset: float = OFFSET) -> Tensor:
    """Bring a table [1, H*W, C] of `grid` (H, W) to [1, h*w, C] of `new` (h, w)."""
    if grid == new:
        return table
    planes = rearrange(table.float(), "1 (h w) c -> 1 c h w", h=grid[0])
    factors = [(side + offset) / old for side, old in zip(new, grid, strict=True)]
    planes = functional.interpolate(planes, scale_factor=factors, mode="bicubic", antialias=False)
    return rearrange(planes, "1 c h w -> 1 (h w) c").to(table.dtype)


class OfficialVisionTransformer(VisionTransformer):
    """timm's ViT with the rule above."""

    def _pos_embed(self, x: Tensor) -> Tensor:
        """Add positions to patches [B, h, w, C]; give tokens [B, 1 + h*w, C]."""
        count, height, width, _ = x.shape
        table = interpolate(self.pos_embed[:, 1:], tuple(self.patch_embed.grid_size), (height, width))
        first = self.cls_token + self.pos_embed[:, :1]
        x = torch.cat([first.expand(count, -1, -1), rearrange(x, "b h w c -> b (h w) c") + table], dim=1)
        return self.pos_drop(x)


class BilinearVisionTransformer(VisionTransformer):
    """timm's ViT whose table, without prefix tokens, is resized bilinearly with antialiasing (TIPSv2)."""

    def _pos_embed(self, x: Tensor) -> Tensor:
        """Add positions to patches [B, h, w, C]; give tokens [B, prefix + h*w, C]."""
        count, *grid, _ = x.shape
        height, width = self.patch_embed.grid_size
        own: Any = self.pos_embed
        table = rearrange(own, "1 (h w) c -> 1 c h w", h=height)
        if grid != [height, width]:
            table = functional.interpolate(table.float(), grid, mode="bilinear", antialias=True).to(x.dtype)
        x = rearrange(x, "b h w c -> b (h w) c") + rearrange(table, "1 c h w -> 1 (h w) c")
        first = [token.expand(count, -1, -1) for token in (self.cls_token, self.reg_token) if token is not None]
        return self.pos_drop(torch.cat([*first, x], dim=1))
