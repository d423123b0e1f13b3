"""JAFAR (Couairon, Chambon et al., 2506.11136): pixels of the image attend to all cells of a backbone's map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional

from dense_ctx.interfaces import Size

from .base import HEADS, LAYER, WIDTH, Upsampler
from .blocks import attend
from .encoders import GROUPS, Attention, Rotation, encoder, require_width


class Jafar(Upsampler):
    """Attention of every pixel to every cell: queries of the image, keys of the image scaled and shifted by the map.

    The guidance has the backbone's normalisation, as in training.

    Args:
        dims, strides: the backbone's.
        layer: index of the map to read, negative ones from the end.
        width: channels of queries and keys, a multiple of 8.
        heads: of the attention; their mean weights are applied.

    Raises:
        InputError: an argument out of its range.
    """

    file_args: ClassVar[Mapping[str, Any] | None] = {"layer": LAYER, "width": WIDTH, "heads": HEADS}
    imagenet: ClassVar[bool] = False

    def __init__(
        self, dims: Sequence[int], strides: Sequence[int], layer: int = -1, width: int = 128, heads: int = 4
    ) -> None:
        super().__init__(dims, layer)
        require_width(width)
        self.image_encoder = encoder(3, width)
        self.key_encoder = encoder(width, width)
        self.query_encoder = encoder(width, width)
        self.key_features_encoder = encoder(self.dim, width)
        self.gamma = nn.Conv2d(width, width, 1, bias=False)
        self.beta = nn.Conv2d(width, width, 1, bias=False)
        self.attention = Attention(width, heads)
        self.rope = Rotation(width)

    def upsample(self, low: Tensor, guidance: Tensor, size: Size) -> Tensor:
        """Weighted means of the map's cells."""
        pixels = self.rope(self.image_encoder(guidance))
        query = functional.adaptive_avg_pool2d(self.query_encoder(pixels), size)
        key = functional.adaptive_avg_pool2d(self.key_encoder(pixels), (low.shape[-2], low.shape[-1]))
        content = self.key_features_encoder(functional.normalize(low, dim=1))
        key = self.gamma(content) * functional.group_norm(key, GROUPS) + self.beta(content)
        query, key = self.attention(functional.group_norm(query, GROUPS), key)
        return attend(query, key, low[:, None])
