"""Scores of one image: clustering of its pixels, agreement of partitions and of boundaries."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from scipy.cluster.vq import ClusterError, kmeans2
from torch import Tensor

from dense_ctx.errors import InputError

TOLERANCE = 0.008  # of the image diagonal: how far boundaries may be apart, as DAVIS has it


def cluster(latents: Tensor, count: int, seed: int = 0) -> Tensor:
    """k-means of rows [N, D] into `count` groups (k-means++, the best of four starts): int64 [N].

    Raises:
        InputError: no start gave that many groups.
    """
    values = latents.double().numpy()
    count = min(count, len(np.unique(values, axis=0)))
    if count <= 1:
        return torch.zeros(len(values), dtype=torch.int64)
    best: tuple[float, Any] | None = None
    for start in range(4):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # an empty group: another start will do
                centres, labels = kmeans2(values, count, iter=50, minit="++", seed=seed + start, missing="warn")
        except (ClusterError, ValueError):
            continue
        error = float(np.square(values - centres[labels]).sum())
        if best is None or error < best[0]:
            best = (error, labels)
    if best is None:
        raise InputError(f"k-means found no {count} groups in {len(values)} pixels")
    return torch.from_numpy(best[1].astype(np.int64))


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


def boundary_f(prediction: np.ndarray[Any, Any], truth: np.ndarray[Any, Any], tolerance: float = TOLERANCE) -> float:
    """Harmonic mean of the shares of boundary pixels, [H, W] bool, that have one of the other's near.

    Args:
        tolerance: of the image's diagonal, rounded up to pixels, as DAVIS has it.

    Returns:
        1 where neither has a boundary, 0 where one has none.
    """
    if not prediction.any() or not truth.any():
        return float(not prediction.any() and not truth.any())
    radius = math.ceil(tolerance * math.hypot(*truth.shape))
    precision = float((ndimage.distance_transform_edt(~truth)[prediction] <= radius).mean())
    recall = float((ndimage.distance_transform_edt(~prediction)[truth] <= radius).mean())
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)
