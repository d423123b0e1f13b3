"""Superpixels as segments, by scikit-image."""

from __future__ import annotations

import torch
from skimage.segmentation import slic
from torch import Tensor
from torch.nn import functional

from dense_ctx.errors import InputError
from dense_ctx.interfaces import Size

from .segmenters import Segmenter


class SlicSegmenter(Segmenter):
    """Superpixels (Achanta et al. 2012) by scikit-image.

    Args:
        segments: about how many.
        compactness: how much place counts against colour.
    """

    def __init__(self, segments: int = 40, compactness: float = 10.0) -> None:
        if segments < 1 or not compactness > 0:
            raise InputError(f"segments={segments}, compactness={compactness}: expected at least 1, and above 0")
        self.segments, self.compactness = segments, compactness

    def __call__(self, image: Tensor, features: Tensor | None, size: Size) -> Tensor:
        """As `Segmenter`."""
        small = functional.interpolate(image[None].float(), size, mode="bilinear", antialias=True)[0]
        picture = small.clamp(0, 1).permute(1, 2, 0).cpu().numpy()
        segments = slic(picture, n_segments=self.segments, compactness=self.compactness, start_label=0)
        return torch.from_numpy(segments).long()
