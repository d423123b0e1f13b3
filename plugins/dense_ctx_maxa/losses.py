"""Losses over known pixels only. A batch without any gives 0, with a gradient of 0."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def known_mean(errors: Tensor, known: Tensor) -> Tensor:
    """Mean of errors [B, H, W] over the known pixels, bool [B, H, W]."""
    # where, not a product: an infinite error of an unknown pixel would be NaN
    return torch.where(known, errors, 0.0).sum() / known.sum().clamp_min(1)


def cross_entropy_of_logits(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy of logits [B, 1, H, W] and shares [B, 1, H, W], NaN unknown."""
    known = target.isfinite()
    errors = functional.binary_cross_entropy_with_logits(logits, target.nan_to_num(), reduction="none")
    return known_mean(errors, known)


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of [B, 1, H, W], NaN unknown."""
    known = target.isfinite()
    return known_mean((prediction - torch.where(known, target, 0.0)).square(), known)


def cosine_distance(prediction: Tensor, target: Tensor) -> Tensor:
    """1 - cosine of vectors [B, K, H, W], NaN unknown."""
    known = target.isfinite().all(1)
    truth = torch.where(known[:, None], target, 0.0)
    return known_mean(1 - functional.cosine_similarity(prediction, truth, dim=1), known)


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of logits [B, K, ...] and labels [B, ...], -1 unknown."""
    total = functional.cross_entropy(logits, target, ignore_index=-1, reduction="sum")
    return total / (target >= 0).sum().clamp_min(1)


def sample_pixels(target: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """At most `count` labelled pixels of each image, at random; target [B, H, W].

    Returns:
        their indices [B, n] in the flat image, and their labels [B, n]; -1, to be ignored, where an image has fewer.
        The shape does not depend on the labels, for which an accelerator's host would wait.
    """
    labels = target.flatten(1)
    order = torch.where(labels >= 0, torch.rand(labels.shape, device=target.device), -1.0)
    pixels = order.topk(min(count, labels.shape[1]), dim=1).indices
    return pixels, labels.gather(1, pixels)
