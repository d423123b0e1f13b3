"""Class-agnostic segments of an image: `ncut` on the backbone's own features, `slic`, `diffcut`; `patches`: none."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from dense_ctx.errors import ContractError, InputError
from dense_ctx.interfaces import Size

from .ncut import ncut_segments
from .ncut_batch import ncut_segments_of


class Segmenter(ABC):
    """Divides an image into segments.

    reads_features: whether it is given the backbone's patch features.
    """

    reads_features = False

    @abstractmethod
    def __call__(self, image: Tensor, features: Tensor | None, size: Size) -> Tensor:
        """Segments int64 [*size], ids from 0, -1 in none.

        Args:
            image: [3, H, W] in [0, 1].
            features: [C, h, w] of the backbone, where `reads_features`.
            size: of the result.
        """

    def batch(self, images: Sequence[Tensor], features: Sequence[Tensor | None], sizes: Sequence[Size]) -> list[Tensor]:
        """Segments of several images, of any sizes; those of one at a time."""
        return [self(image, deep, size) for image, deep, size in zip(images, features, sizes, strict=True)]

    def to(self, device: str | torch.device) -> Segmenter:
        """Move its networks, if it has any."""
        return self


def check_segments(segmenter: Segmenter, segments: object, size: Size) -> None:
    """Refuse what is not int64 [*size] with ids from -1.

    Raises:
        ContractError: says what it is.
    """
    problem = None
    if not isinstance(segments, Tensor) or segments.dtype != torch.int64 or tuple(segments.shape) != tuple(size):
        what = f"{segments.dtype} {list(segments.shape)}" if isinstance(segments, Tensor) else type(segments).__name__
        problem = f"gave {what}; expected int64 {list(size)}"
    elif int(segments.min()) < -1:
        problem = f"gave ids down to {int(segments.min())}; expected -1 where there is no segment"
    if problem:
        raise ContractError("segments", f"segmenter {type(segmenter).__name__} {problem}")


class NcutSegmenter(Segmenter):
    """Recursive normalised cut of the backbone's patch features; see `ncut_segments`.

    Args:
        tau, alpha, official_quirk: see `dense_ctx_dip.ncut`.
    """

    reads_features = True

    def __init__(self, tau: float = 0.5, alpha: float = 10.0, official_quirk: bool = False) -> None:
        if not 0 < tau <= 2 or not alpha > 0:
            raise InputError(f"tau={tau}, alpha={alpha}: expected within (0, 2], and above 0")
        self.tau, self.alpha, self.official_quirk = tau, alpha, official_quirk

    def __call__(self, image: Tensor, features: Tensor | None, size: Size) -> Tensor:
        """As `Segmenter`."""
        if features is None:
            raise InputError("ncut reads the backbone's features; got none")
        return ncut_segments(features, size, self.tau, self.alpha, self.official_quirk)

    def batch(self, images: Sequence[Tensor], features: Sequence[Tensor | None], sizes: Sequence[Size]) -> list[Tensor]:
        """Small parts of all images are cut together; the segments are those of one at a time."""
        maps = [item for item in features if item is not None]
        if len(maps) != len(images):
            raise InputError("ncut reads the backbone's features; got none")
        return ncut_segments_of(maps, sizes, self.tau, self.alpha, self.official_quirk)


class PatchSegmenter(Segmenter):
    """Each patch by itself: pseudo-classes are then k-means of features alone, without segments (DIP's ablation)."""

    reads_features = True

    def __call__(self, image: Tensor, features: Tensor | None, size: Size) -> Tensor:
        """As `Segmenter`."""
        if features is None:
            raise InputError("patches reads the backbone's features; got none")
        height, width = features.shape[-2:]
        rows = torch.arange(size[0], device=features.device) * height // size[0]
        columns = torch.arange(size[1], device=features.device) * width // size[1]
        return rows[:, None] * width + columns
