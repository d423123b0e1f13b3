"""Metrics, as the benchmarks define them."""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import InputError


def confusion_matrix(prediction: Tensor, target: Tensor, classes: int, ignore_index: int | None = 255) -> Tensor:
    """Count pixels: int64 [classes, classes], rows are the true class, columns the predicted one.

    Pixels whose target is `ignore_index` are left out.

    Raises:
        InputError: different shapes, or an id outside 0..classes-1.
    """
    if prediction.shape != target.shape:
        raise InputError(f"Prediction {list(prediction.shape)} and target {list(target.shape)} have different shapes")
    keep = torch.ones_like(target, dtype=torch.bool) if ignore_index is None else target != ignore_index
    prediction, target = prediction[keep].long(), target[keep].long()
    for name, values in (("Prediction", prediction), ("Target", target)):
        if values.numel() and (int(values.min()) < 0 or int(values.max()) >= classes):
            raise InputError(
                f"{name} ids run from {int(values.min())} to {int(values.max())}; expected 0 to {classes - 1}"
            )
    return torch.bincount(target * classes + prediction, minlength=classes * classes).reshape(classes, classes)


def iou(confusion: Tensor) -> Tensor:
    """Intersection over union of each class, float64 [classes]; NaN for a class in neither prediction nor target."""
    confusion = confusion.double()
    hit = confusion.diagonal()
    return hit / (confusion.sum(0) + confusion.sum(1) - hit)
