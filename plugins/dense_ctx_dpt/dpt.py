"""The DPT decoder (Ranftl et al. 2021, "Vision Transformers for Dense Prediction"), in the form FlowFeat and LILA use.

It computes what their code computes, so that their weights fit (`convert.from_flowfeat`), and takes what theirs does
not: odd patch grids, any number of prefix tokens (the backbone strips them), hierarchical backbones, any output size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from dense_ctx.errors import InputError
from dense_ctx.interfaces import Decoder, Features, Size
from dense_ctx.persistence.file_args import CHANNELS

from . import resizing, strips

STRENGTH = 0.5  # of a principal component at the start: its standard deviation to this power beside its own


class DPT(Decoder):
    """Reassemble the maps to a pyramid, fuse it from coarse to fine, project to `dim` channels.

    Args:
        dims, strides: the backbone's. Equal strides (a plain ViT) are reassembled to a pyramid of factors
            ..., 4, 2, 1, 1/2; growing strides (a CNN, Swin, Hiera) are one already.
        dim: output channels (LILA: 128, 192, 256 for ViT-S, B, L).
        width: channels of the fusion.
        projections: channels of each map after its 1x1 projection; default the backbone's own.
        norm: end with a LayerNorm over channels (eps 1e-6), as FlowFeat does.
        shortcut: add a linear projection of the maps themselves, each standardised over its channels and upsampled. The
            pyramid's path starts small, so that an untrained decoder gives about what the maps side by side give, the
            more so after `initialise`; for short trainings. Neither FlowFeat nor LILA has it.
    """

    file_args: ClassVar[Mapping[str, Any] | None] = {
        "dim": CHANNELS, "width": CHANNELS, "projections": [CHANNELS], "norm": bool, "shortcut": bool,
    }  # fmt: skip

    def __init__(
        self,
        dims: Sequence[int],
        strides: Sequence[int],
        dim: int = 128,
        width: int = 128,
        projections: Sequence[int] | None = None,
        norm: bool = True,
        shortcut: bool = False,
    ) -> None:
        super().__init__()
        if min(dim, width) < 1:
            raise InputError(f"dim={dim} and width={width} are channel counts, at least 1")
        count = len(dims)
        plain = len(set(strides)) == 1
        if not plain and list(strides) != sorted(set(strides)):
            raise InputError(f"DPT takes maps of one stride, or of strides that grow with depth; got {list(strides)}")
        projections = list(projections or dims)
        if len(projections) != count:
            raise InputError(f"projections={projections}: one number for each of the backbone's {count} maps")
        self.dim, self.projections = dim, projections
        self.reassemble = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, wide, 1), _rescale(wide, count - 2 - level if plain and count > 1 else 0))
            for level, (channels, wide) in enumerate(zip(dims, projections, strict=True))
        )
        self.lateral = nn.ModuleList(nn.Conv2d(wide, width, 3, padding=1, bias=False) for wide in projections)
        # fusion[level] joins what comes from deeper with this level's map; the deepest has nothing to join
        self.skip = nn.ModuleList(ResidualUnit(width) for _ in range(count - 1))
        self.fuse = nn.ModuleList(ResidualUnit(width) for _ in range(count))
        self.head = nn.Conv2d(width, width, 3, padding=1)
        self.project = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, dim, 1))
        self.norm = nn.LayerNorm(dim, eps=1e-6) if norm else None
        self.shortcut = nn.ModuleList(nn.Conv2d(channels, dim, 1, bias=False) for channels in dims if shortcut)
        for layer in self._shortcuts():
            nn.init.orthogonal_(layer.weight)
        if shortcut:
            with torch.no_grad():
                self._last.weight.mul_(0.1)
                self._bias(self._last).zero_()

    def pyramid(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The maps after reassembling and the 3x3 lateral convolution: each [B, width, h_l, w_l]."""
        return [
            lateral(reassemble(item))
            for item, reassemble, lateral in zip(maps, self.reassemble, self.lateral, strict=True)
        ]

    def forward(self, features: Features, images: Tensor, size: Size) -> Tensor:
        """Decode to [B, dim, *size]."""
        levels = self.pyramid(features.maps)
        path = self.fuse[-1](levels[-1])
        for level in range(len(levels) - 2, -1, -1):
            skip = levels[level]
            # twice as large on even grids, as in the official code; on odd ones the size of the map to join
            path = _resize(path, (skip.shape[-2], skip.shape[-1]))
            path = self.fuse[level](path + self.skip[level](skip))
        path = self.head(_resize(path, (2 * path.shape[-2], 2 * path.shape[-1])))
        low = self._shortcut(features.maps) if self.shortcut else None
        if strips.suit(path):
            return self._in_strips(path, low, size)
        beside = None if low is None else resizing.at_size(low, size)
        return self._finished(self.project(resizing.at_size(path, size)), beside)

    def _finished(self, out: Tensor, beside: Tensor | None) -> Tensor:
        """The projected channels with the shortcut's, normed."""
        out = (out if beside is None else out + beside).movedim(1, -1)
        if self.norm is not None:
            out = self.norm(out)
        return out.movedim(-1, 1)

    def _in_strips(self, path: Tensor, low: Tensor | None, size: Size) -> Tensor:
        """What follows the last map, a few rows at a time; a row needs one more on each side for the convolution."""
        first = cast(nn.Conv2d, self.project[0])
        path = resizing.enlargeable(path, size)
        low = None if low is None else resizing.enlargeable(low, size)

        def strip(start: int, stop: int) -> Tensor:
            top, bottom = max(0, start - 1), min(size[0], stop + 1)
            x = strips.enlarged_rows(path, top, bottom, size)
            if bottom - top < stop + 2 - start:  # at the border there is none
                x = functional.pad(x, (0, 0, top - start + 1, stop + 1 - bottom))
            x = functional.conv2d(x, first.weight, first.bias, padding=(0, 1)).relu_()
            out: Tensor = self._last(x)
            if low is not None:
                out += strips.enlarged_rows(low, start, stop, size)
            return self._finished(out, None)

        return strips.decoded(strip, len(path), self.dim, size)

    def _shortcut(self, maps: Sequence[Tensor]) -> Tensor:
        """Projections of all maps, added from coarse to fine, on the finest grid."""
        total: Tensor | None = None
        for layer, item in zip(reversed(self.shortcut), reversed(maps), strict=True):
            one: Tensor = layer(_standardized(item))
            total = one if total is None else one + resizing.at_size(total, (one.shape[-2], one.shape[-1]))
        if total is None:
            raise InputError("This decoder has no shortcut")
        return total

    @torch.no_grad()
    def initialise(self, batches: Iterable[Sequence[Tensor]]) -> bool:
        """Start the shortcut with the principal components of the maps side by side, each map counting the same.

        The strong components are made stronger still, by the square root of their standard deviation. All are then
        rotated at random (the same rotation every time): a probe that standardises its channels would otherwise make
        the weakest component as loud as the strongest.

        Returns:
            False: there is no shortcut, and nothing was read.

        Raises:
            InputError: the maps have fewer channels than `dim`.
        """
        if not self.shortcut:
            return False
        layers = self._shortcuts()
        channels = [layer.in_channels for layer in layers]
        if sum(channels) < self.dim:
            raise InputError(f"The maps have {sum(channels)} channels, fewer than dim={self.dim}: make dim smaller")
        mean, covariance = _moments(batches)
        values, vectors = torch.linalg.eigh(covariance)
        variances = values.flip(0)[: self.dim].clamp_min(1e-9)
        basis = vectors.flip(1)[:, : self.dim] * variances ** (STRENGTH / 2)
        basis *= (self.dim / (variances ** (1 + STRENGTH)).sum()).sqrt()
        noise = torch.randn(self.dim, self.dim, generator=torch.Generator().manual_seed(0), dtype=basis.dtype)
        basis = basis @ torch.linalg.qr(noise)[0]
        for layer, part, n in zip(layers, basis.split(channels), channels, strict=True):
            layer.weight.copy_(rearrange(part / n**0.5, "channels dim -> dim channels 1 1"))
        self._bias(self._last).copy_(-(mean @ basis))
        return True

    @torch.no_grad()
    def shift(self, offset: Tensor) -> bool:
        """Add a vector [dim] to every pixel from now on."""
        bias = self._bias(self._last if self.norm is None else self.norm)
        bias.add_(offset.to(bias))
        return True

    @property
    def _last(self) -> nn.Conv2d:
        return cast(nn.Conv2d, self.project[-1])

    def _shortcuts(self) -> list[nn.Conv2d]:
        return cast(list[nn.Conv2d], list(self.shortcut))

    @staticmethod
    def _bias(layer: nn.Conv2d | nn.LayerNorm) -> Tensor:
        return cast(Tensor, layer.bias)


def _moments(batches: Iterable[Sequence[Tensor]]) -> tuple[Tensor, Tensor]:
    """Mean [C] and covariance [C, C], float64, of all maps side by side on the second one's grid.

    Each is standardised over its channels and divided by the square root of their number.
    """
    gram, total, count = torch.zeros(0), torch.zeros(0), 0
    for maps in batches:
        grid = maps[min(1, len(maps) - 1)].shape[-2:]
        rows = torch.cat(
            [resizing.at_size(_standardized(item.float()), (grid[0], grid[1])) / item.shape[1] ** 0.5 for item in maps],
            1,
        )
        rows = rearrange(rows, "b c h w -> (b h w) c").double().cpu()
        if not count:
            gram, total = rows.new_zeros(rows.shape[1], rows.shape[1]), rows.new_zeros(rows.shape[1])
        gram, total, count = gram + rows.T @ rows, total + rows.sum(0), count + len(rows)
    if not count:
        raise InputError("No image to initialise the decoder from")
    mean = total / count
    return mean, gram / count - mean[:, None] * mean


def _standardized(item: Tensor) -> Tensor:
    return functional.layer_norm(item.movedim(1, -1), (item.shape[1],)).movedim(-1, 1)


class ResidualUnit(nn.Module):
    """conv(relu(conv(relu(x)))) + relu(x).

    The published code adds x after an in-place ReLU has changed it; the weights were trained so, hence relu(x), not x.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, h, w] to the same."""
        x = functional.relu(x)
        out: Tensor = self.conv2(functional.relu(self.conv1(x))) + x
        return out


def _rescale(channels: int, power: int) -> nn.Module:
    """By 2^power: transposed convolution, nothing, or a strided convolution (odd grids round up)."""
    if power > 0:
        return nn.ConvTranspose2d(channels, channels, 2**power, stride=2**power)
    if power < 0:
        return nn.Conv2d(channels, channels, 3, stride=2**-power, padding=1)
    return nn.Identity()


def _resize(x: Tensor, size: Size) -> Tensor:
    if strips.suit(x):
        return strips.enlarged(x, size, align_corners=True)
    return functional.interpolate(x, size=size, mode="bilinear", align_corners=True)
