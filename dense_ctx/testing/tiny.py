"""Minimal parts that satisfy every clause, for testing other parts with them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..interfaces import Backbone, Decoder, Features, Size
from ..model import DenseModel


class TinyBackbone(Backbone):
    """Two convolutions with strides 4 and 8, random weights.

    Args:
        dims: channels of the two maps.
    """

    def __init__(self, dims: tuple[int, int] = (6, 10)) -> None:
        super().__init__()
        self.dims, self.strides, self.stride = dims, (4, 8), 8
        self.mean, self.std, self.image_size = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), (32, 32)
        self.shallow = nn.Conv2d(3, dims[0], 4, stride=4)
        self.deep = nn.Conv2d(dims[0], dims[1], 2, stride=2)

    def forward(self, images: Tensor) -> Features:
        """Encode [B, 3, H, W] to maps [B, 6, H/4, W/4] and [B, 10, H/8, W/8]; cls is the deep map's mean."""
        shallow = self.shallow(images).tanh()
        deep = self.deep(shallow).tanh()
        return Features((shallow, deep), deep.mean(dim=(2, 3)), (images.shape[-2], images.shape[-1]))

    def blocks(self) -> list[str]:
        """The two convolutions."""
        return ["shallow", "deep"]


class TinyDecoder(Decoder):
    """A 1x1 convolution on every map, their sum resized to the size asked for.

    Args:
        dims, strides: the backbone's.
        dim: output channels.
    """

    def __init__(self, dims: Sequence[int], strides: Sequence[int], dim: int = 5) -> None:
        super().__init__()
        self.dim = dim
        self.project = nn.ModuleList(nn.Conv2d(width, dim, 1) for width in dims)

    def forward(self, features: Features, images: Tensor, size: Size) -> Tensor:
        """Decode to [B, dim, *size]."""
        maps = [project(item) for project, item in zip(self.project, features.maps, strict=True)]
        resized = [functional.interpolate(m, size, mode="bilinear", align_corners=False) for m in maps]
        return torch.stack(resized).sum(dim=0)


def tiny_model() -> DenseModel:
    """A DenseModel of TinyBackbone and TinyDecoder, with the same random weights each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = TinyBackbone()
        return DenseModel(backbone, TinyDecoder(backbone.dims, backbone.strides))
