"""UPLiFT (Walmer et al., 2601.17950): one small convolutional step of factor 2, applied several times.

Each step raises a guide from the map and the image, and the guide decides how the map's 17 nearest cells are averaged,
by weights that it has for fixed offsets. So time and memory grow with the pixels alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from dense_ctx_dpt import resizing
from dense_ctx_dpt.strips import by_rows
from torch import Tensor, nn
from torch.nn import functional

from dense_ctx.errors import InputError
from dense_ctx.interfaces import Size

from .base import LAYER, WIDTH, Upsampler
from .blocks import rows_of

IMAGE = (16, 32, 64, 128, 128)  # channels of the image's encoder
GRID = 16  # the image is brought to so many pixels a cell, which in training it had
# all cells within one of the middle, and of those two away the ones straight or diagonally so, row by row
OFFSETS = [
    (down, right)
    for down in range(-2, 3)
    for right in range(-2, 3)
    if max(abs(down), abs(right)) < 2 or (down % 2 == 0 and right % 2 == 0)
]


class Uplift(Upsampler):
    """Steps of factor 2, then bilinear to the size asked for.

    Args:
        dims, strides: the backbone's.
        layer: index of the map to read, negative ones from the end.
        width: channels of the guide.
        steps: how often the map is doubled; the files are used with 4.

    Raises:
        InputError: an argument out of its range.
    """

    file_args: ClassVar[Mapping[str, Any] | None] = {"layer": LAYER, "width": WIDTH, "steps": range(1, 9)}

    def __init__(
        self, dims: Sequence[int], strides: Sequence[int], layer: int = -1, width: int = 64, steps: int = 4
    ) -> None:
        super().__init__(dims, layer)
        if width < 1 or steps < 1:
            raise InputError(f"width={width}, steps={steps}: expected at least 1")
        self.steps = steps
        self.encoder = nn.Sequential(*(Convs(a, b, 1) for a, b in zip((3, *IMAGE), IMAGE, strict=False)))
        self.before = Convs(self.dim + IMAGE[-1], width, 2)
        self.twice = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.after = Convs(width + IMAGE[-2], width, 2)
        self.weights = nn.Conv2d(width, len(OFFSETS), 1)

    def upsample(self, low: Tensor, guidance: Tensor, size: Size) -> Tensor:
        """The map through all steps."""
        image = resizing.resize(guidance, (GRID * low.shape[-2], GRID * low.shape[-1]))
        shallow = self.encoder[:-1](image)
        deep = self.encoder[-1](shallow)
        for _ in range(self.steps):
            guide = self.before(_beside(low, deep))
            smooth = functional.interpolate(guide, scale_factor=2, mode="bilinear", align_corners=True)
            guide = self.after(_beside(smooth + self.twice(guide), shallow))
            low = _averaged(low, _padded_sum(guide, self.weights(guide)).float().softmax(1).to(low.dtype))
        return resizing.resize(low, size)


class Convs(nn.Module):
    """3 x 3 convolutions with batch norm, a 1 x 1 convolution, and the input added channel by channel."""

    def __init__(self, channels: int, width: int, count: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for number in range(count):
            first = width if number else channels
            layers += [nn.Conv2d(first, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        self.conv = nn.Sequential(*layers, nn.Conv2d(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, h, w] to [B, width, h, w]."""
        return _padded_sum(x, self.conv(x))


def _padded_sum(x: Tensor, y: Tensor) -> Tensor:
    """y plus the first of x's channels, as many as there are in both."""
    both = min(x.shape[1], y.shape[1])
    return torch.cat([y[:, :both] + x[:, :both], y[:, both:]], 1) if both < y.shape[1] else y + x[:, :both]


def _beside(x: Tensor, image: Tensor) -> Tensor:
    return torch.cat([x, functional.interpolate(image, size=x.shape[-2:], mode="nearest")], 1)


def _averaged(low: Tensor, weights: Tensor) -> Tensor:
    """[B, C, h, w] and weights [B, 17, 2 h, 2 w] of the cells around each pixel's own to [B, C, 2 h, 2 w]."""
    batch, channels, height, width = low.shape
    padded = functional.pad(low, (2,) * 4, mode="replicate")

    def rows(start: int, stop: int) -> Tensor:
        cells = slice(start // 2, stop // 2)
        count = cells.stop - cells.start
        parts = weights[:, :, start:stop].unflatten(3, (width, 2)).unflatten(2, (count, 2))
        total = low.new_zeros(batch, channels, count, 2, width, 2)
        for index, (down, right) in enumerate(OFFSETS):
            cell = padded[:, :, cells.start + 2 + down : cells.stop + 2 + down, 2 + right : 2 + right + width]
            total = total.addcmul_(parts[:, index, None], cell[:, :, :, None, :, None])
        return total.flatten(4, 5).flatten(2, 3)

    return by_rows(rows, 2 * height, 2 * rows_of(4 * batch * channels * width))
