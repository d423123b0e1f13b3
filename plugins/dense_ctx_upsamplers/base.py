"""What the upsamplers share: one map of the backbone, raised under guidance of the image."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from dense_ctx.errors import InputError
from dense_ctx.interfaces import Decoder, Features, Size
from dense_ctx.persistence.file_args import CHANNELS, LONGEST

LAYER = range(-LONGEST, LONGEST)
HEADS = range(1, 129)
WIDTH = CHANNELS


class Upsampler(Decoder):
    """Raise one map [B, C, h, w] to [B, C, *size], guided by the image.

    Args:
        dims: the backbone's.
        layer: index of the map to read, negative ones from the end.

    Raises:
        InputError: the backbone has no such map.
    """

    file_args: ClassVar[Mapping[str, Any] | None] = {"layer": LAYER}
    imagenet: ClassVar[bool] = True  # the guidance was normalised with ImageNet's values, whatever the backbone's are

    def __init__(self, dims: Sequence[int], layer: int) -> None:
        super().__init__()
        if not -len(dims) <= layer < len(dims):
            raise InputError(f"layer={layer}: the backbone has maps 0 to {len(dims) - 1} (or -{len(dims)} to -1)")
        self.layers: tuple[int, ...] = (layer % len(dims),)
        self.dim = dims[layer]

    def forward(self, features: Features, images: Tensor, size: Size) -> Tensor:
        """Decode to [B, dim, *size]."""
        guidance = self._with_imagenet_values(images) if self.imagenet else images
        return self.upsample(features.maps[self.layers[0]], guidance, size)

    @abstractmethod
    def upsample(self, low: Tensor, guidance: Tensor, size: Size) -> Tensor:
        """[B, C, h, w] and the normalised image [B, 3, H, W] to [B, C, *size]."""

    def _with_imagenet_values(self, images: Tensor) -> Tensor:
        if (self.image_mean, self.image_std) == (Decoder.image_mean, Decoder.image_std):
            return images
        values = (self.image_mean, self.image_std, Decoder.image_mean, Decoder.image_std)
        mean, std, new_mean, new_std = (
            torch.tensor(three, device=images.device, dtype=images.dtype)[:, None, None] for three in values
        )
        return (images * std + mean - new_mean) / new_std


def require_heads(heads: int, width: int, what: str) -> None:
    """Raise InputError unless the heads divide the channels."""
    if heads < 1 or width % heads:
        raise InputError(f"heads={heads}: expected a number that divides the {width} channels of {what}")


def reflected(x: Tensor, cells: int) -> Tensor:
    """Pad [B, C, h, w] by `cells` on each side: reflected, or the edge repeated where a side is too short for that.

    The published code ends in an error on such a short side.
    """
    for side, padding in ((-2, (0, 0, cells, cells)), (-1, (cells, cells, 0, 0))):
        x = functional.pad(x, padding, mode="reflect" if x.shape[side] > cells else "replicate")
    return x
