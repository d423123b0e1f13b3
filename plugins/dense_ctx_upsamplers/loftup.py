"""LoftUp (Huang et al., 2504.14032): every pixel's colour and coordinates attend to a backbone's map, twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from dense_ctx_dpt.strips import by_rows
from torch import Tensor, nn
from torch.nn import functional

from dense_ctx.interfaces import Size

from .base import HEADS, LAYER, Upsampler, require_heads
from .blocks import attend, rows_of
from .encoders import in_heads

COARSE, FINE = 5, 20  # frequencies of the map's coordinates, and of the image's coordinates and colours
DEPTH = 2


class LoftUp(Upsampler):
    """A transformer of cross-attention: queries are Fourier features of the image, keys and values the map's cells.

    The output has no bound to the map's values, unlike that of the upsamplers that average its cells.

    Args:
        dims, strides: the backbone's.
        layer: index of the map to read, negative ones from the end.
        heads: of the attention; they divide the map's channels plus 20.

    Raises:
        InputError: an argument out of its range.
    """

    file_args: ClassVar[Mapping[str, Any] | None] = {"layer": LAYER, "heads": HEADS}
    imagenet: ClassVar[bool] = False  # the image is brought to the range -0.5 to 0.5, whatever its normalisation

    def __init__(self, dims: Sequence[int], strides: Sequence[int], layer: int = -1, heads: int = 4) -> None:
        super().__init__(dims, layer)
        width, colours = self.dim + 4 * COARSE, 10 * FINE + 3
        require_heads(heads, width, "the map and its coordinates")
        self.channelnorm = nn.LayerNorm(self.dim)
        self.lr_pe = Fourier(2, COARSE)
        self.fourier_feat = Fourier(5, FINE)
        self.first_norm = nn.LayerNorm(colours)
        self.first_conv = nn.Sequential(*_conv(colours, width), *_conv(width, width))
        self.transformer = nn.ModuleList(Layer(width, self.dim, heads) for _ in range(DEPTH))
        self.norm = nn.LayerNorm(width)
        self.final_conv = nn.Conv2d(width, self.dim, 1)
        self.final_norm = nn.LayerNorm(self.dim, eps=1e-6)

    def upsample(self, low: Tensor, guidance: Tensor, size: Size) -> Tensor:
        """The image at `size` through the transformer."""
        low = _normed(self.channelnorm, low)
        places = _grid(low.shape[-2], low.shape[-1], low.device).expand(len(low), -1, -1, -1)
        cells = torch.cat([low, self.lr_pe(places, 0, low.shape[-2]).to(low)], 1)
        read = [layer.read(cells) for layer in self._layers()]
        pixels = self._pixels(functional.interpolate(guidance, size=size, mode="bilinear", align_corners=False))

        def decoded(start: int, stop: int) -> Tensor:
            x = pixels[:, :, start:stop]
            for layer, (key, value) in zip(self._layers(), read, strict=True):
                x = layer(x, key, value)
            return _normed(self.final_norm, self.final_conv(_normed(self.norm, x)))

        return by_rows(decoded, size[0], rows_of(4 * pixels[:, :, 0].numel()))

    def _pixels(self, image: Tensor) -> Tensor:
        """[B, 3, H, W] to [B, dim + 20, H, W].

        The image's own darkest and brightest values are its range. (The published code takes those of the batch, so
        that an image's features depend on what else is in it; alone it gives the same.)
        """
        # the highest frequency is e^10: in less than float32 its sine is noise
        flat = image.float().flatten(2)
        least = flat.amin(-1)[..., None, None]
        span = (flat.amax(-1)[..., None, None] - least).clamp_min(1e-4)
        colours = (image.float() - least) / span - 0.5
        height, width = image.shape[-2:]
        points = torch.cat([_grid(height, width, image.device).expand(len(image), -1, -1, -1), colours], 1)

        def convolved(start: int, stop: int) -> Tensor:
            # with two rows more on each side, which the two convolutions need; beyond the image they see zeros
            top, bottom = max(0, start - 2), min(height, stop + 2)
            fourier = torch.cat([self.fourier_feat(points, top, bottom), colours[:, :, top:bottom]], 1)
            x: Tensor = self.first_conv(_normed(self.first_norm, fourier.to(image)))
            return x[:, :, start - top : stop - top]

        # batch norm's own statistics, in training, are of all rows
        return by_rows(convolved, height, height if self.training else rows_of(len(image) * 1200 * width) + 16)

    def _layers(self) -> list[Layer]:
        return [layer for layer in self.transformer if isinstance(layer, Layer)]


class Fourier(nn.Module):
    """Sines and cosines of values at frequencies from e^-2 to e^10, each with a learned phase."""

    def __init__(self, channels: int, frequencies: int) -> None:
        super().__init__()
        self.biases = nn.Parameter(torch.randn(2, channels, frequencies))

    def forward(self, values: Tensor, start: int, stop: int) -> Tensor:
        """Rows of [B, channels, H, W] to [B, 2 x channels x frequencies, stop - start, W], in float32."""
        _, channels, count = self.biases.shape
        frequencies = torch.linspace(-2, 10, count, device=values.device).exp()[:, None, None, None]
        turns = frequencies * values[:, None, :, start:stop].float()
        # the published code reads [channels, frequencies] as [frequencies, channels]; the weights were trained so
        phases = self.biases.float().reshape(2, count, channels, 1, 1)
        return torch.cat([(turns + phases[0]).sin().flatten(1, 2), (turns + phases[1]).cos().flatten(1, 2)], 1)


class Layer(nn.Module):
    """Cross-attention and a perceptron, each added to its input."""

    def __init__(self, width: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_q, self.norm_kv = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.net = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def read(self, cells: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values, each [B, heads, width / heads, h, w], of [B, width, h, w]."""
        cells = self.norm_kv(cells.movedim(1, -1))
        return in_heads(self.key(cells), self.heads), in_heads(self.value(cells), self.heads)

    def forward(self, x: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """[B, width, H, W] to the same."""
        query = in_heads(self.query(self.norm_q(x.movedim(1, -1))), self.heads)
        y = x.movedim(1, -1) + self.out(attend(query, key, value).movedim(1, -1))
        out: Tensor = y + self.net(y)
        return out.movedim(-1, 1)


def _conv(channels: int, width: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()


def _normed(norm: nn.Module, x: Tensor) -> Tensor:
    y: Tensor = norm(x.movedim(1, -1))
    return y.movedim(-1, 1)


def _grid(height: int, width: int, device: torch.device) -> Tensor:
    """Rows and columns from -1 to 1: [1, 2, H, W]."""
    sides = (torch.linspace(-1, 1, side, device=device) for side in (height, width))
    return torch.stack(torch.meshgrid(*sides, indexing="ij"))[None]
