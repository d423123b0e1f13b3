"""Class probabilities of cells, refined at the edges of the image (He et al. 2013; fast: He and Sun 2015)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from .bank import pooled

_NUMBERS = 1 << 19  # of the maps that are held at once


def refined(scores: Tensor, image: Tensor, step: int, radius: int, epsilon: float) -> Tensor:
    """Probabilities [B, K, H, W] of those of cells, [B, K, h, w], and the image [B, 3, H, W] in [0, 1].

    In each window the probabilities are fitted by a linear function of the colour, on a grid of half cells; the means
    of the functions of all windows that hold a pixel are read at the pixel's own colour.

    Args:
        step: pixels per side of a cell; the last ones may be cut by the border.
        radius: of a window, in half cells.
        epsilon: added to the colours' variance: edges that are weaker are smoothed over.
    """
    side = half(step)
    guide = pooled(image, side)
    shape = guide.shape[-2:]
    rows, columns = (bilinear(n, side, h, step).to(scores) for n, h in zip(shape, scores.shape[-2:], strict=True))

    counts = box_sums(torch.ones_like(guide[:1, :1]), radius)

    def means(x: Tensor) -> Tensor:
        return box_sums(x, radius).div_(counts)

    colours = colour_moments(guide, means, epsilon)
    size, count = image.shape[-2:], scores.shape[1]
    result = scores.new_empty(len(scores), count, *size)
    # a few classes at a time: the functions of one are four maps, and the moments behind them some ten more
    together = max(1, _NUMBERS // (len(scores) * (4 * size.numel() + 20 * shape.numel())))
    for first in range(0, count - 1, together):
        classes = slice(first, min(first + together, count - 1))
        coefficients = local_functions(colours, rows @ scores[:, classes] @ columns.T, means)
        if side > 1:
            coefficients = functional.interpolate(
                coefficients, scale_factor=side, mode="bilinear", align_corners=False
            )[..., : size[0], : size[1]]  # fmt: skip
        result[:, classes] = read_at(coefficients, image)
    result[:, -1] = 1 - result[:, :-1].sum(1)  # the last class has what the others leave
    result.clamp_(min=0)
    return result.div_(result.sum(1, keepdim=True).clamp_min(torch.finfo(result.dtype).tiny))


def half(step: int) -> int:
    """Pixels per side of half a cell."""
    return max(1, step // 2)


def bilinear(after: int, size_after: int, before: int, size_before: int) -> Tensor:
    """[after, before]: values of `before` cells along one side, read at the centres of cells of another size."""
    places = (torch.arange(after, dtype=torch.float32) + 0.5) * size_after / size_before - 0.5
    return (1 - (places.clamp(0, before - 1)[:, None] - torch.arange(before)).abs()).clamp_min(0)


def box_sums(x: Tensor, radius: int) -> Tensor:
    """[B, C, h, w]: sums over the squares of 2 radius + 1 places a side around each place, cut by the border."""
    for axis in (-2, -1):
        size, sums = x.shape[axis], x.clone()
        for apart in range(1, min(radius, size - 1) + 1):
            sums.narrow(axis, apart, size - apart).add_(x.narrow(axis, 0, size - apart))
            sums.narrow(axis, 0, size - apart).add_(x.narrow(axis, apart, size - apart))
        x = sums
    return x


class ColourMoments(NamedTuple):
    """What the fits of all classes share, each [B, 1, h, w]: colours, their means in the window around each place, and
    the factors L D L' of covariance + epsilon.
    """

    colours: tuple[Tensor, ...]
    means: tuple[Tensor, ...]
    lower: tuple[Tensor, ...]  # l10, l20, l21
    diagonal: tuple[Tensor, ...]


def colour_moments(guide: Tensor, means: Callable[[Tensor], Tensor], epsilon: float) -> ColourMoments:
    """Of a guide [B, 3, h, w] in [0, 1].

    Args:
        means: of the windows around each place, of [B, C, h, w].
        epsilon: see `refined`.
    """
    guide = guide - 0.5  # variances are differences of squares: small numbers keep their digits
    colours = guide.split(1, 1)
    r, g, b = colours
    moments = means(torch.cat([r, g, b, r * r, r * g, r * b, g * g, g * b, b * b], 1))
    r, g, b, rr, rg, rb, gg, gb, bb = moments.split(1, 1)
    d0 = rr - r * r + epsilon
    l10, l20 = (rg - r * g) / d0, (rb - r * b) / d0
    d1 = gg - g * g + epsilon - l10 * l10 * d0
    l21 = (gb - g * b - l10 * l20 * d0) / d1
    d2 = bb - b * b + epsilon - l20 * l20 * d0 - l21 * l21 * d1
    return ColourMoments(colours, (r, g, b), (l10, l20, l21), (d0, d1, d2))


def local_functions(colours: ColourMoments, scores: Tensor, means: Callable[[Tensor], Tensor]) -> Tensor:
    """Coefficients [B, 4 K, h, w] of K classes: the weights of the three colours, then the constant, each [K].

    Args:
        scores: [B, K, h, w].
        means: see `colour_moments`.
    """
    moments = means(torch.cat([scores, *(colour * scores for colour in colours.colours)], 1))
    p, rp, gp, bp = moments.chunk(4, 1)
    (r, g, b), (l10, l20, l21), (d0, d1, d2) = colours[1:]
    # (covariance + epsilon) weights = covariance with the scores
    y0 = rp - r * p
    y1 = gp - g * p - l10 * y0
    y2 = bp - b * p - l20 * y0 - l21 * y1
    blue = y2 / d2
    green = y1 / d1 - l21 * blue
    red = y0 / d0 - l10 * green - l20 * blue
    constant = p - red * (r + 0.5) - green * (g + 0.5) - blue * (b + 0.5)
    return means(torch.cat([red, green, blue, constant], 1))


def read_at(coefficients: Tensor, image: Tensor) -> Tensor:
    """Scores [B, K, H, W] by coefficients [B, 4 K, H, W] at the colours of an image [B, 3, H, W]."""
    red, green, blue, constant = coefficients.chunk(4, 1)
    r, g, b = image.split(1, 1)
    return constant.addcmul(red, r).addcmul(green, g).addcmul(blue, b)
