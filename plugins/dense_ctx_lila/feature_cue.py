"""The features cue: the frozen backbone's own maps, standardised and refined by the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from dense_ctx.errors import ConfigError, refuse_idle
from dense_ctx.interfaces import Features

from .pamr import few_cells, refine, refined_shares
from .targets import Targets


@dataclass(frozen=True)
class FeatureCue:
    """Maps of the backbone as a cue.

    layers: maps that make it, joined on the finest grid of them.
    norm: standardise each position over the channels of each map first, as a network's final LayerNorm does; its scale
        and shift of a channel fall out when channels are standardised. For maps of `norm: false` backbones.
    project: channels: the standardised maps times a fixed random matrix with orthonormal columns, which keeps
        distances; 0: all channels as they are (the paper).
    pamr: refine by the image; pyramid, iterations, dilations: its settings, see `pamr.refine`; the last level is 1.
    """

    layers: tuple[int, ...] = (-1,)
    norm: bool = False
    project: int = 0
    pamr: bool = True
    pyramid: tuple[int, ...] = (4, 2, 1)
    iterations: tuple[int, ...] = (20, 10, 5)
    dilations: tuple[int, ...] = (1, 3, 5)

    def __post_init__(self) -> None:
        if not self.layers or self.project < 0:
            raise ConfigError(f"layers={self.layers}, project={self.project}: at least one map; channels, or 0 for all")
        if len(self.pyramid) != len(self.iterations) or self.pyramid[-1:] != (1,):
            raise ConfigError(
                f"features.pyramid={list(self.pyramid)}, features.iterations={list(self.iterations)}: expected "
                "iterations for each level, and the last level 1, the cue's own grid"
            )
        default = {item.name: item.default for item in fields(self)}
        refuse_idle(
            (not self.pamr and value != default[name], f"features.{name}", "with pamr=false")
            for name, value in (
                ("pyramid", self.pyramid),
                ("iterations", self.iterations),
                ("dilations", self.dilations),
            )
        )

    def channels(self, dims: Sequence[int]) -> int:
        """How many it has, of a backbone's."""
        count = sum(dims[layer] for layer in self.layers)
        return min(count, self.project) if self.project else count

    @torch.no_grad()
    def __call__(self, features: Features, images: Tensor, side: int) -> Targets:
        """Of images [2B, 3, S, S], contexts first, on a grid of `side`: C channels, standardised."""
        maps = [features.maps[layer].float() for layer in self.layers]
        if self.norm:
            maps = [functional.layer_norm(x.movedim(1, -1), (x.shape[1],), eps=1e-6).movedim(-1, 1) for x in maps]
        finest = max((item.shape[-2], item.shape[-1]) for item in maps)
        stacked = torch.cat([_resize(item, finest) for item in maps], 1)
        # the padding to the stride is cut off with the cells that hold nothing else
        rows = max(1, round(stacked.shape[-2] * images.shape[-2] / features.image_size[0]))
        columns = max(1, round(stacked.shape[-1] * images.shape[-1] / features.image_size[1]))
        stacked = stacked[:, :, :rows, :columns]
        if 0 < self.project < stacked.shape[1]:
            basis = _basis(stacked.shape[1], self.project).to(stacked)
            stacked = torch.einsum("bchw,cd->bdhw", standardized(stacked), basis)
        if not self.pamr:
            return Targets.of(standardized(_resize(stacked, (side, side))))
        if side != images.shape[-1]:
            images = functional.interpolate(images, size=(side, side), mode="bilinear", antialias=True)
        settings = (self.pyramid, self.iterations, self.dilations)
        if not few_cells(stacked):
            return Targets.of(standardized(refine(stacked, images, *settings)))
        return standardized_products(refined_shares(stacked, images, *settings), stacked)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _basis(channels: int, project: int) -> Tensor:
    """Orthonormal columns [channels, project], the same ones always."""
    generator = torch.Generator().manual_seed(0)
    basis: Tensor = torch.linalg.qr(torch.randn(channels, project, generator=generator))[0]
    return basis


def standardized(maps: Tensor) -> Tensor:
    """[2B, C, h, w], contexts first: each channel of a pair by its mean and std over both crops.

    Of both, since one crop may be nearly constant, and the other would be scaled without bound.
    """
    # pass by pass in memory order: std_mean over the pixels of channels-last maps takes twice as long
    half = len(maps) // 2
    mean = maps.mean((2, 3))
    away = maps - ((mean[:half] + mean[half:]) / 2).repeat(2, 1)[..., None, None]
    square = away.square().mean((2, 3))
    std = ((square[:half] + square[half:]) / 2).sqrt().clamp_min(1e-3)
    return away.mul_(std.reciprocal().repeat(2, 1)[..., None, None])


def standardized_products(shares: Tensor, maps: Tensor) -> Targets:
    """`standardized` of the maps that shares [2B, H, W, cells] make of maps [2B, C, h, w], without making them."""
    rows = rearrange(maps, "b c h w -> b (h w) c")
    mean = rows.mean(1, keepdim=True)  # kept by shares, which sum to 1; what differs needs the digits
    rows = rows - mean
    each = shares.flatten(1, 2)
    share = each.mean(1, keepdim=True)
    average = (share @ rows + mean).squeeze(1)
    half = len(average) // 2
    middle = ((average[:half] + average[half:]) / 2).repeat(2, 1)
    # of the products: within an image by the shares' covariance, and the image's own mean beside the pair's
    covariance = (each.mT @ each) / each.shape[1] - share.mT @ share
    square = ((covariance @ rows) * rows).sum(1).clamp_min(0) + (average - middle).square()
    unit = ((square[:half] + square[half:]) / 2).sqrt().clamp_min(1e-3).reciprocal().repeat(2, 1)
    plain = shares.new_zeros(*shares.shape[:3], 0)
    return Targets(shares, rows * unit[:, None], (mean.squeeze(1) - middle) * unit, plain)


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return functional.interpolate(x, size=size, mode="bilinear", align_corners=False)
