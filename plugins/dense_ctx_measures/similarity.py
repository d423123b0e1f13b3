"""Functions of all measures: extract and sample pixel features, and compare cosines with a random baseline."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from dense_ctx.errors import InputError, about
from dense_ctx.images import ImageLike, load
from dense_ctx.interfaces import Size
from dense_ctx.numerics import require_finite

Model = Callable[..., Any]  # a DenseModel, or a function: model(images [B, 3, H, W], size=(h, w)).pixels [B, D, h, w]

SMALLEST = 8  # pixels a side: smaller images have no structure to measure
_FLAT = 1e-5  # relative to the features' root mean square; well above float32 rounding of a constant
_NO_CONTRAST = 1e-3  # of 1 - cos_random: below it the normalised score is noise divided by noise


def read_image(image: ImageLike, name: str) -> Tensor:
    """Load an image as float32 [3, H, W] in [0, 1].

    Raises:
        FileError, InputError: see `dense_ctx.images.load`; InputError too for a side below 8 pixels.
    """
    with about(name):
        loaded = load(image)
    check_size((loaded.shape[-2], loaded.shape[-1]), name)
    return loaded


def check_size(size: Size, name: str) -> None:
    """Refuse sides below 8 pixels."""
    if min(size) < SMALLEST:
        raise InputError(
            f"{name} is {size[0]} x {size[1]} pixels (H x W); expected at least {SMALLEST} a side. "
            "Give a larger image, or a scale nearer to 1"
        )


def resize(image: Tensor, size: Size) -> Tensor:
    """Resize [3, H, W] to [3, *size]: bilinear, antialiased, align_corners=False; unchanged at its own size."""
    if tuple(image.shape[-2:]) == size:
        return image
    return functional.interpolate(image[None], size=size, mode="bilinear", antialias=True, align_corners=False)[0]


def scaled(size: Size, scale: float) -> Size:
    """(H, W) times `scale`, rounded to whole pixels."""
    return round(size[0] * scale), round(size[1] * scale)


def extract(model: Model, image: Tensor, size: Size, name: str) -> Tensor:
    """Compute the pixel features of one image [3, H, W], without gradients: float32 [D, *size].

    Raises:
        InputError: the model's result has no `.pixels` [1, D, *size], or another size.
        NonFiniteError: they hold NaN or infinity.
    """
    with about(name), torch.inference_mode():
        pixels = getattr(model(image[None], size=size), "pixels", None)
        if not isinstance(pixels, Tensor) or pixels.ndim != 4 or pixels.shape[0] != 1 or pixels.shape[2:] != size:
            actual = list(pixels.shape) if isinstance(pixels, Tensor) else type(pixels).__name__
            raise InputError(
                f"model(images, size={size}).pixels is {actual}; expected a tensor [1, D, {size[0]}, {size[1]}]"
            )
        pixels = pixels[0].float()
        require_finite("The features", "Look for overflow (float16) in the model", pixels=pixels)
    return pixels


def choose_points(size: Size, count: int | None, generator: torch.Generator) -> Tensor:
    """Draw `count` distinct pixels of a grid (None: all), as float64 [N, 2] of (x, y)."""
    total = size[0] * size[1]
    if count is None or count >= total:
        index = torch.arange(total)
    else:
        index = (
            torch.randperm(total, generator=generator)[:count].sort().values
        )  # sorted: several times faster to index
    return torch.stack([index % size[1], index // size[1]], dim=1).double()


def sample(field: Tensor, xy: Tensor) -> Tensor:
    """Sample a map [C, H, W] bilinearly at pixel positions [N, 2] of (x, y): [N, C].

    (0, 0) is the centre of the first pixel; positions beyond the centres of the border pixels get the border's value.
    Exact at integer positions, unlike `grid_sample`.
    """
    height, width = field.shape[-2:]
    xy = xy.double().cpu()  # on the CPU: some accelerators lack float64, and float32 is too coarse for a large image
    x, y = xy[:, 0].clamp(0, width - 1), xy[:, 1].clamp(0, height - 1)
    left, top = x.floor().long(), y.floor().long()
    right, bottom = (left + 1).clamp(max=width - 1), (top + 1).clamp(max=height - 1)
    u, v = (x - left).to(field), (y - top).to(field)
    flat = field.flatten(1)
    corners = [(row * width + column).to(field.device) for row in (top, bottom) for column in (left, right)]
    if torch.equal(x, left.double()) and torch.equal(y, top.double()):
        return flat.index_select(1, corners[0]).T
    parts = []
    for part in flat.split(64):  # in blocks of channels, for small intermediates
        a, b, c, d = (part.index_select(1, corner) for corner in corners)
        parts.append((a * (1 - u) + b * u) * (1 - v) + (c * (1 - u) + d * u) * v)
    return torch.cat(parts).T


@dataclass(frozen=True)
class Centre:
    """The mean feature [D] of a map [D, H, W], and the norm below which a centred feature has no direction.

    constant: the map's spread is within float32 rounding.
    """

    mean: Tensor
    floor: float
    constant: bool

    @classmethod
    def of(cls, pixels: Tensor) -> Centre:
        """The centre of a map."""
        flat = pixels.flatten(1)
        mean = flat.mean(dim=1)
        spread = math.sqrt(float(flat.var(dim=1, correction=0).sum()))
        size = math.sqrt(spread**2 + float(mean.square().sum()))
        return cls(mean, _FLAT * size, spread <= _FLAT * size)


class Score(NamedTuple):
    """(cos - cos_random) / (1 - cos_random), the two cosines, and the reason if it is NaN."""

    value: float
    cos: float
    cos_random: float
    reason: str | None


class PairSums:
    """Running sums of cosines over groups of pixel pairs; each group's random baseline is over its own pixels."""

    def __init__(self) -> None:
        self.n = 0
        self.groups = 0
        self._cos = 0.0
        self._random = 0.0

    def add(self, first: Tensor, second: Tensor, centre: Centre) -> None:
        """Add one group: corresponding rows [N, D], both centred by the same mean.

        The baseline is the mean over all pairs (i, j) with i != j: the expectation over random pairs, without
        sampling noise. It costs two sums of unit vectors.
        """
        first, second = first - centre.mean, second - centre.mean
        lengths = first.norm(dim=1, keepdim=True), second.norm(dim=1, keepdim=True)
        keep = ((lengths[0] > centre.floor) & (lengths[1] > centre.floor))[:, 0]
        n = int(keep.sum())
        if n < 2:
            return
        first, second = first[keep] / lengths[0][keep], second[keep] / lengths[1][keep]
        cos = float((first * second).sum())
        pairs = float(first.sum(0) @ second.sum(0))
        self.n += n
        self.groups += 1
        self._cos += cos
        self._random += (pairs - cos) / (n - 1)  # n times the group's mean

    def score(self, empty: str) -> Score:
        """The normalised score; `empty` is the reason if nothing was compared."""
        if self.n == 0:
            return Score(math.nan, math.nan, math.nan, empty)
        cos, random = self._cos / self.n, self._random / self.n
        if 1 - random < _NO_CONTRAST:
            return Score(math.nan, cos, random, "random pairs have cosines near 1: the features hardly vary")
        return Score((cos - random) / (1 - random), cos, random, None)
