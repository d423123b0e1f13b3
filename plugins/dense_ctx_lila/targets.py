"""What the loss compares with: cue maps, those of a few cells kept as the products that they are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor


@dataclass(frozen=True)
class Targets:
    """Cue maps of B images, K = C + M channels: first the products of shares and cells, then those that are given.

    A map of 768 channels that PAMR has made of 16 x 16 cells has a rank of 256 at most. It is never written: whoever
    wants some of its pixels multiplies their shares by the cells.

    shares: of each cell in each pixel, [B, H, W, cells].
    cells: their values, [B, cells, C], and what is added to all of them, offset [B, C].
    plain: maps, [B, H, W, M].
    """

    shares: Tensor
    cells: Tensor
    offset: Tensor
    plain: Tensor

    @classmethod
    def of(cls, maps: Tensor) -> Targets:
        """Of maps [B, K, H, W] alone."""
        none = maps.new_zeros(len(maps), 0, 0)
        return cls(maps.new_zeros(*maps.shape[:1], *maps.shape[2:], 0), none, none[:, 0:0].flatten(1), _last(maps))

    @property
    def channels(self) -> int:
        """K."""
        return self.cells.shape[-1] + self.plain.shape[-1]

    def beside(self, maps: Tensor) -> Targets:
        """With maps [B, M', H, W] behind its own."""
        plain = torch.cat([self.plain, _last(maps)], -1) if self.plain.shape[-1] else _last(maps)
        return Targets(self.shares, self.cells, self.offset, plain)

    def apart(self, count: int) -> tuple[Targets, Targets]:
        """All but the last `count` channels, and these: maps that are given, not products."""
        first = self.plain.shape[-1] - count
        last = Targets.of(rearrange(self.plain[..., first:], "b h w m -> b m h w"))
        return Targets(self.shares, self.cells, self.offset, self.plain[..., :first]), last

    def split(self) -> tuple[Targets, Targets]:
        """Of the first and the second half of the images."""
        halves = [each.chunk(2) for each in (self.shares, self.cells, self.offset, self.plain)]
        return Targets(*(first for first, _ in halves)), Targets(*(second for _, second in halves))

    def pixels(self, stride: int = 1) -> Tensor:
        """Of every stride-th pixel from the middle of the first stride, [B, h, w, K]."""
        some = slice(stride // 2, None, stride)
        plain = self.plain[:, some, some]
        if not self.cells.shape[-1]:
            return plain
        shares = self.shares[:, some, some]
        product = shares.flatten(1, 2) @ self.cells + self.offset[:, None]
        return torch.cat([product.unflatten(1, shares.shape[1:3]), plain], -1)


def _last(maps: Tensor) -> Tensor:
    return rearrange(maps, "b k h w -> b h w k")
