"""Similarity maps and PCA pictures of an item's features."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from dense_ctx_predict.pca import pca
from torch.nn import functional

from dense_ctx.interfaces import Size
from dense_ctx.visualize import Picture

from .enlarging import enlarged
from .features import ItemFeatures


def similarity(
    one: ItemFeatures, where: tuple[float, float], other: ItemFeatures, size: Size
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Cosine of a feature of `one`, at a share of its height and width, to those of `other`, [*size]."""
    height, width = one.grid
    vector = one.pixels[0, :, int(where[0] * height), int(where[1] * width)].float()
    rows = other.pixels[0].float()
    norm = rows.square().sum(0).sqrt() * vector.norm()
    cosines = torch.einsum("c,chw->hw", vector, rows) / norm.clamp_min(1e-12)
    result: np.ndarray[Any, np.dtype[np.float32]] = enlarged(cosines[None], size)[0].clamp(-1, 1).numpy()
    return result


def pca_picture(reference: ItemFeatures, features: ItemFeatures, size: Size) -> Picture:
    """RGB [*size, 3]: the reference's three principal components, its 1st to 99th percentile from 0 to 255."""
    rows = reference.pixels[0].flatten(1).T.float()
    mean, axes = pca(rows, 3)
    sample = ((rows - mean) @ axes)[:: max(1, len(rows) // 100_000)]
    low, high = torch.quantile(sample, torch.tensor([0.01, 0.99]), dim=0)
    scores = (features.pixels[0].flatten(1).T.float() - mean) @ axes
    scores = ((scores - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
    picture = functional.pad(scores, (0, 3 - scores.shape[1])).T.reshape(3, *features.grid)
    return np.ascontiguousarray((enlarged(picture, size).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())
