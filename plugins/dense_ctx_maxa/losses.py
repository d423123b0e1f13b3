"""The losses of the tasks, over known pixels only. A batch without any gives 0, with a gradient of 0."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def values_loss(task: str, prediction: Tensor, target: Tensor) -> Tensor:
    """Mean over known pixels; prediction and target [B, K, H, W], target NaN where unknown.

    boundaries: binary cross-entropy of logits. distance, depth: squared error. normals: 1 - cosine.
    """
    seen = target.isfinite().all(1)
    truth = torch.where(seen[:, None], target, 0.0)
    if task == "boundaries":
        each = functional.binary_cross_entropy_with_logits(prediction, truth, reduction="none")[:, 0]
    elif task == "normals":
        each = 1 - functional.cosine_similarity(prediction, truth, dim=1)
    else:
        each = (prediction - truth).square()[:, 0]
    # where, not a product: an infinite error of an unknown pixel would be NaN
    return torch.where(seen, each, 0.0).sum() / seen.sum().clamp_min(1)


def labels_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of logits [B, K, ...] and labels [B, ...], -1 unknown."""
    total = functional.cross_entropy(logits, target, ignore_index=-1, reduction="sum")
    return total / (target >= 0).sum().clamp_min(1)


def drawn_pixels(target: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(image, pixel) indices of at most `count` labelled pixels of each image, drawn at random; target [B, H, W]."""
    rows, columns = [], []
    for row, labels in enumerate(target.flatten(1)):
        found = (labels >= 0).nonzero()[:, 0]
        if len(found) > count:
            found = found[torch.randperm(len(found), device=found.device)[:count]]
        rows.append(torch.full_like(found, row))
        columns.append(found)
    return torch.cat(rows), torch.cat(columns)
