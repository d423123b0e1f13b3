"""Semantic segmentation: confusion matrix, IoU, and the ways in which evaluators match and average."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ..errors import InputError

Matching = Literal["none", "hungarian", "many_to_one"]
Absent = Literal["left_out", "zero"]


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


def matched_iou(confusion: Tensor, matching: Matching = "none") -> Tensor:
    """IoU of each true class after predicted classes are matched to true ones, float64 [classes]; NaN as in `iou`.

    Args:
        matching: "none" (supervised: class i is class i); "hungarian" (one to one, the largest sum of IoUs, as
            open-hummingbird's evaluation does by default); "many_to_one" (each predicted class counts as the true
            class it overlaps best).
    """
    if matching == "none":
        return iou(confusion)
    count = len(confusion)
    total = confusion.double()
    pairs = total / (total.sum(1)[:, None] + total.sum(0)[None] - total).clamp_min(1e-8)  # [true, predicted]
    merged = torch.zeros_like(confusion)
    if matching == "hungarian":
        true, predicted = linear_sum_assignment(pairs.cpu().numpy(), maximize=True)
        merged[:, torch.as_tensor(true)] = confusion[:, torch.as_tensor(predicted)]
    elif matching == "many_to_one":
        merged.index_add_(1, pairs.argmax(0), confusion)
    else:
        raise InputError(f"matching={matching!r}: expected 'none', 'hungarian' or 'many_to_one'")
    if merged.shape[1] != count:
        raise InputError("The confusion matrix is not square")
    return iou(merged)


@dataclass(frozen=True)
class Segmentation:
    """Scores of a confusion matrix.

    miou: mean IoU over classes; pixel_accuracy: share of labelled pixels that are right;
    mean_accuracy: mean over classes of the share of their pixels that are right; per_class: IoU, NaN if absent.
    """

    miou: float
    pixel_accuracy: float
    mean_accuracy: float
    per_class: tuple[float, ...]

    @classmethod
    def of(cls, confusion: Tensor, matching: Matching = "none", absent: Absent = "left_out") -> Segmentation:
        """Score a matrix [classes, classes] of counts.

        Args:
            matching: see `matched_iou`.
            absent: a class in neither prediction nor target is left out of the mean, or counts 0 (open-hummingbird).

        Raises:
            InputError: no labelled pixel at all.
        """
        total = confusion.double()
        if not bool(total.any()):
            raise InputError("No labelled pixel was scored: every target is ignored")
        scores = matched_iou(confusion, matching)
        mean = scores.nan_to_num(0.0).mean() if absent == "zero" else scores.nanmean()
        recalls = total.diagonal() / total.sum(1)
        return cls(
            float(mean),
            float(total.diagonal().sum() / total.sum()),
            float(recalls.nanmean()),
            tuple(scores.tolist()),
        )


def harmonic(seen: float, unseen: float) -> float:
    """Harmonic mean of the mIoU over seen and over unseen classes; 0 if both are 0, NaN if either is."""
    return 0.0 if seen + unseen == 0 else 2 * seen * unseen / (seen + unseen)
