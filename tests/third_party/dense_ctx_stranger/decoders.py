"""Two decoders: one that can be initialised from data and shifted, one that cannot but asks for its sizes."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dense_ctx.interfaces import Decoder, Features, Size


class Mix(Decoder):
    """A 1 x 1 convolution of the deepest map, brought to the size asked for.

    Args:
        dims, strides: the backbone's; the registry passes them.
        dim: output channels.
    """

    layers = (-1,)  # a cache of features need not hold the others

    def __init__(self, dims: Sequence[int], strides: Sequence[int], dim: int = 4) -> None:
        super().__init__()
        self.dim = dim
        self.mix = nn.Conv2d(dims[-1], dim, 1)
        self.register_buffer("offset", torch.zeros(dim))

    def forward(self, features: Features, images: Tensor, size: Size) -> Tensor:
        """Decode to [B, dim, *size]."""
        return _resize(self.mix(features.maps[-1]), size) + self.offset[:, None, None]

    @torch.no_grad()
    def initialise(self, batches: Iterable[Sequence[Tensor]]) -> bool:
        """Start with the principal components of the deepest map."""
        rows = torch.cat([maps[-1].movedim(1, -1).flatten(0, 2) for maps in batches])
        components = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)[2][: self.dim]
        self.mix.weight.copy_(components[:, :, None, None])
        self.mix.bias.zero_()
        return True

    @torch.no_grad()
    def shift(self, offset: Tensor) -> bool:
        """Add a vector [dim] to every pixel from now on."""
        self.offset += offset.to(self.offset)
        return True


class Places(Decoder):
    """The sum of all maps, each through a 1 x 1 convolution, and of a learnt vector for each place.

    Args:
        dims, strides, dim: as of `Mix`.
        grid: (rows, columns) of the places.
    """

    def __init__(self, dims: Sequence[int], strides: Sequence[int], dim: int = 4, grid: Sequence[int] = (2, 2)) -> None:
        super().__init__()
        self.dim = dim
        self.project = nn.ModuleList(nn.Conv2d(width, dim, 1) for width in dims)
        self.place = nn.Parameter(torch.zeros(1, dim, *grid))

    @classmethod
    def size_args(cls, size: Size, image_size: Size, strides: Sequence[int], args: Mapping[str, Any]) -> dict[str, Any]:
        """A place for each cell of the finest map."""
        return {"grid": [-(-side // strides[0]) for side in image_size]}

    def forward(self, features: Features, images: Tensor, size: Size) -> Tensor:
        """Decode to [B, dim, *size]."""
        maps = [_resize(project(item), size) for project, item in zip(self.project, features.maps, strict=True)]
        return torch.stack(maps).sum(0) + _resize(self.place, size)


def _resize(x: Tensor, size: Size) -> Tensor:
    return functional.interpolate(x, size, mode="bilinear", align_corners=False)
