"""Class probabilities on a grid of cells, brought to the size of a display."""

from __future__ import annotations

import torch
from torch import Tensor

from dense_ctx.interfaces import Size, resample


def enlarged(shares: Tensor, size: Size) -> Tensor:
    """[K, h, w] at `size`: bilinear, antialiased where it shrinks. Sums over K stay what they are."""
    return resample(shares[None], size)[0]


def best_classes(shares: Tensor, size: Size) -> Tensor:
    """The index of the greatest of `enlarged(shares, size)`, uint8 [*size]."""
    # `max` takes a quarter of the time of `argmax` over the first axis
    return enlarged(shares, size).max(0).indices.to(torch.uint8)
