"""Invariance: does a pixel keep its feature when the image is flipped, scaled or cropped?"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dense_ctx.errors import InputError
from dense_ctx.gateway import gateway
from dense_ctx.images import ImageLike

from .similarity import Centre, Model, PairSums, check_size, choose_points, extract, read_image, resize, sample, scaled

Mapped = Callable[[Tensor], Tensor]  # (x, y) [N, 2] in the original -> (x, y) [N, 2] in the transformed image


class Transform(ABC):
    """A geometric transform of an image. Results are looked up by `name`."""

    name: str

    @abstractmethod
    def apply(self, image: Tensor, generator: torch.Generator) -> tuple[Tensor, Mapped]:
        """Transform an image [3, H, W]: the result [3, h, w], and the map from original to transformed positions."""


@dataclass(frozen=True)
class Flip(Transform):
    """Horizontal flip: x' = W - 1 - x."""

    name: str = "flip"

    def apply(self, image: Tensor, generator: torch.Generator) -> tuple[Tensor, Mapped]:
        """See `Transform.apply`."""
        last = image.shape[-1] - 1
        return image.flip(-1), lambda xy: torch.stack([last - xy[:, 0], xy[:, 1]], dim=1)


@dataclass(frozen=True)
class Scale(Transform):
    """Resized by `factor` (sides rounded to pixels): x' = (x + 1/2) w / W - 1/2, align_corners=False; y likewise."""

    factor: float

    def __post_init__(self) -> None:
        if not 0 < self.factor < math.inf:
            raise InputError(f"A scale's factor is above 0; got {self.factor}")

    @property
    def name(self) -> str:  # type: ignore[override]  # read-only here
        """Such as "scale 0.5"."""
        return f"scale {self.factor:g}"

    def apply(self, image: Tensor, generator: torch.Generator) -> tuple[Tensor, Mapped]:
        """See `Transform.apply`."""
        size = (image.shape[-2], image.shape[-1])
        small = scaled(size, self.factor)
        check_size(small, f"An image of {size[0]} x {size[1]} at {self.name}")
        ratio = torch.tensor([small[1] / size[1], small[0] / size[0]], dtype=torch.float64)
        return resize(image, small), lambda xy: (xy + 0.5) * ratio - 0.5


@dataclass(frozen=True)
class Crop(Transform):
    """A random window, not resized: x' = x - x0.

    fraction: of each side, rounded to pixels. align: the corner (x0, y0) is a multiple of it; the model's stride
    keeps the cells aligned with the original's, 1 does not.
    """

    fraction: float = 0.5
    align: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1 or self.align < 1:
            raise InputError(f"A crop's fraction lies in (0, 1] and align is at least 1; got {self}")

    @property
    def name(self) -> str:  # type: ignore[override]  # read-only here
        """Such as "crop 0.5" or "crop 0.5 align 14"."""
        return f"crop {self.fraction:g}" + (f" align {self.align}" if self.align > 1 else "")

    def apply(self, image: Tensor, generator: torch.Generator) -> tuple[Tensor, Mapped]:
        """See `Transform.apply`."""
        size = (image.shape[-2], image.shape[-1])
        height, width = scaled(size, self.fraction)
        check_size((height, width), f"A {self.name} of an image of {size[0]} x {size[1]}")
        y0, x0 = (
            int(torch.randint((full - part) // self.align + 1, (), generator=generator)) * self.align
            for full, part in ((size[0], height), (size[1], width))
        )
        corner = torch.tensor([x0, y0], dtype=torch.float64)
        return image[:, y0 : y0 + height, x0 : x0 + width], lambda xy: xy - corner


DEFAULT = (Flip(), Scale(0.5), Scale(0.75), Scale(1.5), Crop(0.5))


@dataclass(frozen=True)
class InvarianceSetting:
    """One transform.

    invariance: (cos - cos_random) / (1 - cos_random); NaN if undefined, for the reason in `reason`.
    cos: mean cosine of a pixel's features before and after; cos_random: of two different pixels, before and after.
    n, images: pixels and images compared.
    """

    transform: str
    invariance: float
    cos: float
    cos_random: float
    n: int
    images: int
    reason: str | None = None


@dataclass(frozen=True)
class Invariance:
    """Invariance under each transform, in the order given."""

    settings: tuple[InvarianceSetting, ...]

    def at(self, name: str) -> InvarianceSetting:
        """The setting of a transform, by its name.

        Raises:
            InputError: it was not measured.
        """
        for setting in self.settings:
            if setting.transform == name:
                return setting
        raise InputError(f"{name!r} was not measured; measured: {', '.join(s.transform for s in self.settings)}")


@gateway
def feature_invariance(
    model: Model,
    images: Iterable[ImageLike],
    *,
    transforms: Sequence[Transform] = DEFAULT,
    points: int | None = 16384,
    seed: int = 0,
) -> Invariance:
    """Cosine between features of an image and of its transform, mapped back to its pixels (docs/measures.md).

    Both are computed at their image's size; the transform's features are sampled bilinearly at the transformed
    positions of the original's pixels. One image is in memory at a time.

    Args:
        model: a DenseModel, or model(images [1, 3, H, W], size=(H, W)) whose result has `.pixels` [1, D, H, W].
        images: of any sizes.
        transforms: by default flip, scales 0.5, 0.75 and 1.5, and a crop of half the sides.
        points: pixels compared per image, drawn without replacement (of a crop those inside it); None: all.
        seed: of the points and the crops' corners.

    Raises:
        InputError: no image, an image below 8 pixels before or after a transform, NaN features, two transforms with the
            same name.
        FileError: an image cannot be read.
    """
    names = [transform.name for transform in transforms]
    if not names or len(set(names)) < len(names):
        raise InputError(f"transforms have different names, at least one; got {names}")
    if points is not None and points < 2:
        raise InputError(f"points={points}: at least 2, or None for all")
    generator = torch.Generator().manual_seed(seed)
    sums = {name: PairSums() for name in names}
    count = constant = 0
    for image in images:
        original = read_image(image, f"image {count}")
        size = (original.shape[-2], original.shape[-1])
        pixels = extract(model, original, size, f"image {count}")
        centre = Centre.of(pixels)
        xy = choose_points(size, points, generator)
        before = sample(pixels, xy)
        del pixels  # frees memory: the transform's may be larger
        for transform in transforms:
            changed, mapped = transform.apply(original, generator)
            small = (changed.shape[-2], changed.shape[-1])
            target = mapped(xy)
            limit = torch.tensor([small[1], small[0]], dtype=target.dtype) - 0.5
            inside = ((target >= -0.5) & (target <= limit)).all(dim=1)
            after = extract(model, changed, small, f"image {count} after {transform.name}")
            if not centre.constant:
                sums[transform.name].add(before[inside.to(before.device)], sample(after, target[inside]), centre)
        constant += centre.constant
        count += 1
    if count == 0:
        raise InputError("No images; expected at least one")
    empty = "the features of every image are constant" if constant == count else "no pixel could be compared"
    settings = []
    for name in names:
        score = sums[name].score(empty)
        settings.append(InvarianceSetting(name, *score[:3], sums[name].n, sums[name].groups, score.reason))
    return Invariance(tuple(settings))
