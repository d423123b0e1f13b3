"""edges, texture, shading: what one frame's grey levels say, by Gaussian filters, without a network."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter, gaussian_gradient_magnitude
from torch import Tensor

from .base import Cue

Grey = np.ndarray[Any, np.dtype[np.float32]]
SIGMAS = (1.0, 2.0, 4.0)  # of edges and texture, in pixels of the frame that the cue is given
LUMINANCE = (0.299, 0.587, 0.114)


class Photometric(Cue):
    """Maps of each frame's grey levels [H, W], by itself, on the CPU."""

    unit = "grey levels"
    pair = False

    def __init__(self) -> None:
        super().__init__()

    @abstractmethod
    def maps(self, grey: Grey) -> list[Grey]:
        """`channels` maps [H, W]."""

    def forward(self, context: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """Both frames, each for itself."""
        weights = context.new_tensor(LUMINANCE)[:, None, None]
        frames = (torch.cat([context, query]) * weights).sum(1).float().cpu().numpy()
        maps = torch.from_numpy(np.stack([np.stack(self.maps(grey)) for grey in frames])).to(context)
        first, second = maps.chunk(2)
        return first, second


class Edges(Photometric):
    """Gradient magnitudes at three scales (Canny 1986), times the scale: comparable between scales (Lindeberg 1998)."""

    channels = len(SIGMAS)
    meaning = "the length of the gradient, at standard deviations of 1, 2 and 4 pixels"

    def maps(self, grey: Grey) -> list[Grey]:
        """Fine first."""
        return [sigma * gaussian_gradient_magnitude(grey, sigma, mode="nearest") for sigma in SIGMAS]


class Texture(Photometric):
    """Local energies of second derivatives in three directions at three scales (Malik et al. 2001), scaled alike."""

    channels = 3 * len(SIGMAS)
    meaning = "the root mean square of a second derivative around the pixel: across, down, mixed"

    def maps(self, grey: Grey) -> list[Grey]:
        """Fine first, of each scale the three directions; the mean is over twice the filter's standard deviation."""
        energies = []
        for sigma in SIGMAS:
            for order in ((0, 2), (2, 0), (1, 1)):
                response = sigma**2 * gaussian_filter(grey, sigma, order=order, mode="nearest")
                energies.append(np.sqrt(gaussian_filter(response**2, 2 * sigma, mode="nearest").clip(0)))
        return energies


class Shading(Photometric):
    """The light without its detail: luminance below a frequency (Land and McCann 1971 take it for the illumination)."""

    channels = 1
    meaning = "mean luminance around the pixel, by a Gaussian of a 16th of the short side"

    def maps(self, grey: Grey) -> list[Grey]:
        """One."""
        return [gaussian_filter(grey, min(grey.shape) / 16, mode="nearest")]
