"""Resizing of maps to sizes that only the graph's inputs tell, as products with matrices: no branch, any size.

What `dense_ctx_dpt.resizing` does; which filter is meant depends on the sizes, and a trace would keep the one of its
example. PyTorch's antialiased filter and its means over cells have no counterpart in ONNX at such sizes besides.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dense_ctx.interfaces import Size


def resize(x: Tensor, size: Size) -> Tensor:
    """As `dense_ctx_dpt.resizing.resize`: bilinear, antialiased when shrinking."""
    rows, columns = (bilinear(*pair) for pair in zip(x.shape[-2:], size, strict=True))
    return _product(rows, x, columns)


def at_size(path: Tensor, size: Size) -> Tensor:
    """As `dense_ctx_dpt.resizing.at_size`: means over cells where both sides become half as long or shorter."""
    sides = list(zip(path.shape[-2:], size, strict=True))
    small = [count(before) >= 2 * count(after) for before, after in sides]
    whole = torch.logical_and(*small)
    rows, columns = (torch.where(whole, means(*pair), bilinear(*pair)) for pair in sides)
    return _product(rows, path, columns)


def count(side: int) -> Tensor:
    """A side as a tensor, where a number would become a constant of the graph."""
    return torch.ones(side, dtype=torch.float64).sum()


def bilinear(before: int, after: int) -> Tensor:
    """[after, before]: a triangle around each centre, as wide as the larger pixel; at the border what is there.

    In double precision: a centre far from the border has few digits left in single precision.
    """
    scale = count(before) / count(after)
    centres = (torch.arange(after, dtype=torch.float64) + 0.5) * scale
    positions = torch.arange(before, dtype=torch.float64) + 0.5
    weights = (1 - (positions - centres[:, None]).abs() / scale.clamp_min(1.0)).clamp_min(0.0)
    return (weights / weights.sum(1, keepdim=True)).float()


def means(before: int, after: int) -> Tensor:
    """[after, before]: the mean of all pixels that each cell touches, as `torch.nn.functional.adaptive_avg_pool2d`."""
    # whole numbers in double precision are exact, and so are their quotients' floor and ceiling
    edges = torch.arange(after, dtype=torch.float64)
    start = (edges * count(before) / count(after)).floor()
    stop = ((edges + 1) * count(before) / count(after)).ceil()
    places = torch.arange(before, dtype=torch.float64)
    inside = torch.logical_and(places >= start[:, None], places < stop[:, None]).double()
    return (inside / inside.sum(1, keepdim=True)).float()


def _product(rows: Tensor, x: Tensor, columns: Tensor) -> Tensor:
    return torch.matmul(torch.matmul(rows, x), columns.T)
