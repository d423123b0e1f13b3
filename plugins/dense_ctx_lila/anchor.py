"""An anchor: similarities between pixels stay near those of the decoder before training."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

PIXELS = 14  # a side of the grid that is compared, of each crop


def anchor_loss(features: Tensor, start: Tensor) -> Tensor:
    """The mean absolute difference between cosines of the features and of the start's, [].

    Of all pairs of pixels of both crops, on a grid of 14 x 14 of each: what local k-NN compares.

    Args:
        features, start: [2B, D, H, W], contexts first.
    """
    now, then = (_cosines(x) for x in (features, start))
    return (now - then).abs().mean()


def _cosines(features: Tensor) -> Tensor:
    rows = torch.cat(features.float()[..., _grid(features, -2), :][..., _grid(features, -1)].flatten(2).chunk(2), -1)
    rows = functional.normalize(rows, dim=1)
    return rows.mT @ rows


def _grid(x: Tensor, axis: int) -> Tensor:
    side = x.shape[axis]
    count = min(PIXELS, side)
    return ((torch.arange(count, device=x.device) + 0.5) * side / count).long()
