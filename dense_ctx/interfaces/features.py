"""Data types that parts exchange: feature maps, pixel features, batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from torch import Tensor
from torch.nn import functional

Size = tuple[int, int]
Batch = Mapping[str, Any]  # a collated batch of an Objective's data set: names to tensors [B, ...] or lists
Task = Literal["segmentation", "regression"]
Reads = Literal["pixels", "patches", "both"]  # the decoder's features, the encoder's, or both


@dataclass(frozen=True)
class Features:
    """What a backbone returns.

    maps: shallow to deep, each [B, C_l, h_l, w_l], prefix tokens removed.
    cls: [B, C] global descriptor, or None where the backbone has none.
    image_size: (H, W) of the tensor that was encoded.
    """

    maps: tuple[Tensor, ...]
    cls: Tensor | None
    image_size: Size


@dataclass(frozen=True)
class DenseFeatures:
    """What a DenseModel returns: pixels [B, D, H, W], patches [B, C, h, w] (the deepest map), cls [B, C] or None.

    extent: share of the patch grid's height and width that the image covers; the rest is padding to the stride.
    image: what they are of, [B, 3, H, W] in [0, 1]; None where it is not at hand.
    """

    pixels: Tensor
    patches: Tensor
    cls: Tensor | None = None
    extent: tuple[float, float] = (1.0, 1.0)
    image: Tensor | None = None

    def on_pixels(self, low: Tensor) -> Tensor:
        """Bring a map on the patch grid, [B, K, h, w], to the pixel grid: bilinear, padding cut off."""
        height, width = self.pixels.shape[-2:]
        full = (max(height, round(height / self.extent[0])), max(width, round(width / self.extent[1])))
        return resample(low, full)[:, :, :height, :width]

    def __iter__(self) -> Iterator[Tensor | None]:
        return iter((self.pixels, self.patches, self.cls))

    def to(self, *args: Any, **kwargs: Any) -> DenseFeatures:
        """Move or cast, as `Tensor.to`."""
        cls, image = (None if part is None else part.to(*args, **kwargs) for part in (self.cls, self.image))
        return DenseFeatures(self.pixels.to(*args, **kwargs), self.patches.to(*args, **kwargs), cls, self.extent, image)


def resample(maps: Tensor, size: Size) -> Tensor:
    """Maps [B, K, h, w] at `size`: bilinear; where a side shrinks antialiased, as plain sampling would skip cells."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    shrink = maps.shape[-2] > size[0] or maps.shape[-1] > size[1]
    wide = maps.float() if shrink and maps.itemsize < 4 else maps  # that filter has no bfloat16 kernel on the CPU
    return functional.interpolate(wide, size=size, mode="bilinear", align_corners=False, antialias=shrink).to(maps)


class Unchecked(DenseFeatures):
    """Features on an accelerator, for which `check` waits not in the model's forward but before they are first read."""

    def __init__(self, features: DenseFeatures, check: Callable[[], None]) -> None:
        vars(self).update(_values=features, _check=check, extent=features.extent)

    def _checked(self) -> DenseFeatures:
        if vars(self)["_check"] is not None:
            vars(self)["_check"]()
            vars(self)["_check"] = None  # an error comes again
        return cast(DenseFeatures, vars(self)["_values"])

    pixels = property(lambda self: self._checked().pixels)
    patches = property(lambda self: self._checked().patches)
    cls = property(lambda self: self._checked().cls)
