"""Agreement of two partitions."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InputError


def adjusted_rand_index(prediction: Tensor, target: Tensor, keep: Tensor | None = None) -> float:
    """Adjusted Rand index (Hubert and Arabie 1985): 1 for equal partitions, about 0 for unrelated ones.

    Args:
        prediction, target: integers of one shape; the numbers themselves do not matter.
        keep: bool, the same shape: pixels that count (the foreground).

    Returns:
        1 also where both put everything into one group.

    Raises:
        InputError: different shapes, or nothing to compare.
    """
    if prediction.shape != target.shape:
        raise InputError(f"Partitions {list(prediction.shape)} and {list(target.shape)} have different shapes")
    if keep is not None:
        prediction, target = prediction[keep], target[keep]
    if not target.numel():
        raise InputError("No pixel to compare")
    _, rows = target.reshape(-1).unique(return_inverse=True)
    _, columns = prediction.reshape(-1).unique(return_inverse=True)
    width = int(columns.max()) + 1
    table = torch.bincount(rows * width + columns, minlength=(int(rows.max()) + 1) * width).view(-1, width).double()

    def pairs(counts: Tensor) -> float:
        return float((counts * (counts - 1) / 2).sum())

    together, in_rows, in_columns = pairs(table), pairs(table.sum(1)), pairs(table.sum(0))
    n = float(target.numel())
    expected = in_rows * in_columns / (n * (n - 1) / 2) if n > 1 else 0.0
    largest = (in_rows + in_columns) / 2
    return 1.0 if largest == expected else (together - expected) / (largest - expected)
