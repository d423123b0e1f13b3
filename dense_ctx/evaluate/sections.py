"""The sections of a protocol; each refuses values out of range with a ConfigError, the reader those of another type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import ConfigError

Matching = Literal["none", "hungarian", "many_to_one"]
Absent = Literal["left_out", "zero"]
Alignment = Literal["none", "median", "scale_shift"]


@dataclass(frozen=True)
class Data:
    """Which data set (`dense_ctx.data`), which splits, and its options."""

    name: str
    train: str | None = None
    val: str = "val"
    options: Mapping[str, Any] = field(default_factory=dict)
    fraction: float = 1.0  # of the training images, a seeded sample: 1/8, 1/64 ... for few-shot retrieval

    def __post_init__(self) -> None:
        expect(bool(self.name), "data.name", self.name, "the name of a data set")
        expect(0 < self.fraction <= 1, "data.fraction", self.fraction, "in (0, 1]")


@dataclass(frozen=True)
class ImageSpec:
    """The size of the images.

    short_side: resize the shorter side to so many pixels (bilinear, antialiased); null: not resized.
    size: [H, W] to resize to instead, without regard to the aspect ratio.
    stride: of the backbones, in pixels, that the size is for; others are refused. null: of any.
    """

    short_side: int | None = None
    size: tuple[int, int] | None = None
    stride: int | None = None

    def __post_init__(self) -> None:
        side, size = self.short_side, self.size
        expect(side is None or side >= 1, "image.short_side", side, "a number of pixels, or null")
        expect(size is None or min(size) >= 1, "image.size", size, "[height, width], or null")
        expect(self.stride is None or self.stride >= 1, "image.stride", self.stride, "whole pixels, or null")


@dataclass(frozen=True)
class Train:
    """Training of a probe by gradient steps; null in the protocol for any other probe.

    steps, batch: of gradient descent. scale: range of a random resize. crop: [H, W] cut at random, padded with ignored
    pixels. flip: mirror half of the images. label_stride: the loss sees every n-th pixel of the annotation.
    """

    steps: int
    batch: int = 8
    scale: tuple[float, float] = (1.0, 1.0)
    crop: tuple[int, int] | None = None
    flip: bool = False
    label_stride: int = 1

    def __post_init__(self) -> None:
        scale, crop = self.scale, self.crop
        for key in ("steps", "batch", "label_stride"):
            expect(getattr(self, key) >= 1, f"train.{key}", getattr(self, key), "at least 1")
        expect(0 < scale[0] <= scale[1], "train.scale", scale, "[low, high] above 0")
        expect(crop is None or min(crop) >= 1, "train.crop", crop, "[height, width], or null")

    @property
    def augments(self) -> bool:
        """Whether images are augmented."""
        return self.flip or self.crop is not None or tuple(self.scale) != (1.0, 1.0)


@dataclass(frozen=True)
class Support:
    """Selection and augmentation of a closed-form probe's training images; null in most protocols: all, unchanged.

    passes: over the images, each augmented anew: a random crop resized to image.size, of `scale` of the area and an
        aspect between `ratio`; with probability 1/2 each, brightness, contrast, saturation and hue change by up to
        `jitter`. 0: one pass, not augmented.
    names: text file under the data root with the images to use, one per line; "{seed}" stands for the probe's seed.
    """

    passes: int = 0
    scale: tuple[float, float] = (0.5, 2.0)
    ratio: tuple[float, float] = (0.75, 4 / 3)
    jitter: float = 0.1
    names: str | None = None

    def __post_init__(self) -> None:
        expect(self.passes >= 0, "support.passes", self.passes, "at least 0, which is images as they are")
        for key in ("scale", "ratio"):
            value = getattr(self, key)
            expect(0 < value[0] <= value[1], f"support.{key}", value, "[low, high] above 0")
        expect(0 <= self.jitter <= 0.5, "support.jitter", self.jitter, "in [0, 0.5]")
        expect(self.names != "", "support.names", self.names, "a file's name, or null")


@dataclass(frozen=True)
class Scoring:
    """Conventions of the task's own metric; a `scorer` has its own arguments in their place.

    matching, absent: segmentation and zero-shot. low, high (metres), align: depth.
    unseen: zero-shot; the probe learns from no label of these classes.
    mask_side: score on annotations shrunk to this short side (nearest), as some evaluators do, with any metric;
        -1: to the size at which the model encodes the image; null: at their own size.
    """

    matching: Matching = "none"
    absent: Absent = "left_out"
    low: float = 0.001
    high: float = 10.0
    align: Alignment = "none"
    mask_side: int | None = None
    unseen: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        low, high, side = self.low, self.high, self.mask_side
        expect(low > 0, "scoring.low", low, "above 0 metres")
        expect(low < high, "scoring.high", high, f"above scoring.low, {low} metres")
        expect(side is None or side == -1 or side >= 1, "scoring.mask_side", side, "a number of pixels, -1 or null")


def expect(holds: bool, key: str, value: Any, expected: str) -> None:
    """Refuse a value with a ConfigError that names its key."""
    if not holds:
        raise ConfigError(f"{key} is {value!r}; expected {expected}")
