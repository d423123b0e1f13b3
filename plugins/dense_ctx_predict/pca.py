"""Principal components of features, and pictures of them in colours that are comparable between images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dense_ctx.errors import InputError
from dense_ctx.gateway import gateway
from dense_ctx.interfaces import Size
from dense_ctx.visualize import Picture


@gateway
def pca(rows: Tensor, components: int = 3) -> tuple[Tensor, Tensor]:
    """Principal components of rows [N, d]: their mean [d] and axes [d, components], in order of decreasing variance.

    From the eigendecomposition of the covariance, so the same input gives the same axes; the largest entry of each
    axis is positive.
    """
    if rows.ndim != 2 or len(rows) == 0:
        raise InputError(f"rows are [N, d] with N at least 1; got {list(rows.shape)}")
    mean = rows.mean(0)
    centred = (rows - mean).double()
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    axes = vectors.flip(1)[:, : min(components, rows.shape[1])]
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    return mean, (axes * largest.sign()).to(rows.dtype)


@gateway
def pca_pictures(features: Sequence[Tensor], size: Size | None = None) -> list[Picture]:
    """RGB pictures of the features [D, h, w] of one or more images: their three joint principal components.

    Each channel spans the 1st to the 99th percentile over all images, so colours are comparable between images.

    Args:
        features: maps of one model; heights and widths may differ.
        size: (H, W) of the pictures; default: of the features.
    """
    if not features or any(item.ndim != 3 or item.shape[0] != features[0].shape[0] for item in features):
        raise InputError(f"Features are [D, h, w] with one D; got {[list(item.shape) for item in features]}")
    rows = torch.cat([item.flatten(1).T.float() for item in features])
    mean, axes = pca(rows, 3)
    scores = (rows - mean) @ axes
    sample = scores[:: max(1, len(scores) // 100_000)]
    low, high = torch.quantile(sample, torch.tensor([0.01, 0.99], device=sample.device), dim=0)
    scores = ((scores - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
    pictures = []
    for item, part in zip(features, scores.split([f.shape[1] * f.shape[2] for f in features]), strict=True):
        picture = part.T.reshape(1, -1, *item.shape[1:])
        picture = functional.pad(picture, (0, 0, 0, 0, 0, 3 - picture.shape[1]))  # features may have fewer than three
        if size is not None and tuple(item.shape[1:]) != size:
            picture = functional.interpolate(picture, size=size, mode="bilinear", align_corners=False)
        pictures.append((picture[0].permute(1, 2, 0).cpu().numpy() * 255).round().astype(np.uint8))
    return pictures
