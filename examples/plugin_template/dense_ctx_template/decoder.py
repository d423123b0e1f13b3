"""A small convolutional decoder."""

import torch
from torch import nn
from torch.nn import functional

from dense_ctx import Decoder


class ConvDecoder(Decoder):
    """Project every map to `dim` channels, add them up on the finest grid, mix by a 3x3 convolution.

    Args:
        dims, strides: the backbone's; the registry passes them.
        dim: output channels.
    """

    def __init__(self, dims, strides, dim=32):
        super().__init__()
        self.dim = dim
        self.project = nn.ModuleList(nn.Conv2d(width, dim, 1) for width in dims)
        self.mix = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, features, images, size):
        """Decode maps [B, C_l, h_l, w_l] to [B, dim, *size]."""
        maps = [project(item) for project, item in zip(self.project, features.maps, strict=True)]
        finest = max((item.shape[-2], item.shape[-1]) for item in maps)
        total = torch.stack([_resize(item, finest) for item in maps]).sum(dim=0)
        return _resize(self.mix(functional.gelu(total)), size)


def _resize(x, size):
    return functional.interpolate(x, size=size, mode="bilinear", align_corners=False)
