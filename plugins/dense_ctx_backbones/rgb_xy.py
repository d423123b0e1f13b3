"""Colour and position as features: a trivial baseline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dense_ctx.interfaces import Backbone, Features


class RgbXy(Backbone):
    """One map of five channels at full resolution: red, green, blue, x, y, each about in [-1, 1].

    Args:
        position: weight of x and y relative to the colours.
    """

    file_args: ClassVar[Mapping[str, Any] | None] = {"position": (0.0, 1e6)}

    def __init__(self, position: float = 1.0) -> None:
        super().__init__()
        self.dims, self.strides, self.stride = (5,), (1,), 1
        self.mean, self.std, self.image_size = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), (224, 224)
        self.source = "none (colour and position)"
        self.scale = nn.Parameter(torch.tensor([1.0, 1.0, 1.0, position, position]))

    def forward(self, images: Tensor) -> Features:
        """[B, 3, H, W] -> one map [B, 5, H, W]."""
        batch, _, height, width = images.shape
        y = (torch.arange(height, device=images.device) + 0.5) * 2 / height - 1
        x = (torch.arange(width, device=images.device) + 0.5) * 2 / width - 1
        position_maps = torch.stack([x.expand(height, width), y[:, None].expand(height, width)]).to(images.dtype)
        pixels = torch.cat([images, position_maps.expand(batch, -1, -1, -1)], 1)
        return Features((pixels * self.scale[:, None, None],), None, (height, width))
