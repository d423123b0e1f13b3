"""Boundary quality: do the edges of a feature map lie on the boundaries of the annotated regions?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from dense_ctx.errors import InputError
from dense_ctx.gateway import gateway
from dense_ctx.images import ImageLike, load_mask

from .similarity import Model, check_size, extract, read_image

Array = np.ndarray[Any, Any]

# Edge strength lies in [0, sqrt 2]; features with a large common part have all their edges at the low end, hence the
# logarithmic spacing: each threshold is 3.8 % above the previous one
THRESHOLDS: tuple[float, ...] = tuple(float(t) for t in np.geomspace(1e-4, math.sqrt(2), 256))


@dataclass(frozen=True)
class BoundaryQuality:
    """F of feature edges against mask boundaries.

    ods: F at the threshold that is best for the whole set; precision, recall and threshold are those at it.
    ois: F of the counts summed over images, each at its own best threshold.
    floor: F if every pixel were an edge; edges below it are uninformative.
    per_image: best F of each image, in order; NaN where its mask has no boundary.
    n: pixels evaluated; boundary: boundary pixels among them; images: number of images.
    tolerance: in pixels. thresholds: in units of edge strength.
    """

    ods: float
    ois: float
    precision: float
    recall: float
    threshold: float
    floor: float
    per_image: tuple[float, ...]
    n: int
    boundary: int
    images: int
    tolerance: float
    thresholds: tuple[float, ...]


def edge_strength(pixels: Tensor, thin: bool = True) -> Tensor:
    """Norm of the gradient of L2-normalised features, per pixel: [D, H, W] -> float32 [H, W] in [0, sqrt 2].

    Central differences (one-sided on the border). The direction of steepest change is the principal axis of the sum of
    the channels' gradient products (Di Zenzo 1986); `thin` sets everything but the maxima along it to 0.
    """
    length = pixels.norm(dim=0, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    height, width = pixels.shape[-2:]
    xx, yy, xy = (pixels.new_zeros(height, width) for _ in range(3))
    for part in pixels.split(32):  # in blocks of channels, to avoid a second copy of the whole map
        padded = functional.pad((part / length)[None], (1, 1, 1, 1), mode="replicate")[0]
        dx = (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) / 2
        dy = (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) / 2
        xx += dx.square().sum(0)
        yy += dy.square().sum(0)
        xy += (dx * dy).sum(0)
    strength = (xx + yy).sqrt()
    if not thin:
        return strength
    angle = torch.atan2(2 * xy, xx - yy) / 2
    ys, xs = torch.meshgrid(
        torch.arange(height, device=pixels.device), torch.arange(width, device=pixels.device), indexing="ij"
    )
    ahead = _shifted(strength, xs + angle.cos(), ys + angle.sin())
    behind = _shifted(strength, xs - angle.cos(), ys - angle.sin())
    # strict on one side: a step between two pixels makes both equally strong, and only one of them is the edge
    return torch.where((strength >= ahead) & (strength > behind), strength, 0)


def label_boundaries(labels: Array, void: Array | None = None) -> Array:
    """Pixels whose right or lower neighbour has another id, bool [H, W]; pairs with a void pixel do not count."""
    edges = np.zeros(labels.shape, dtype=bool)
    valid = np.ones(labels.shape, dtype=bool) if void is None else ~void
    edges[:, :-1] |= (labels[:, :-1] != labels[:, 1:]) & valid[:, :-1] & valid[:, 1:]
    edges[:-1] |= (labels[:-1] != labels[1:]) & valid[:-1] & valid[1:]
    return edges


@gateway
def boundary_quality(
    model: Model,
    samples: Iterable[tuple[ImageLike, ImageLike] | Any],
    *,
    tolerance: float = 2.0,
    ignore_index: int | None = 255,
    thresholds: Sequence[float] = THRESHOLDS,
) -> BoundaryQuality:
    """Precision, recall and F of feature edges within `tolerance` pixels of mask boundaries (docs/measures.md).

    One image is in memory at a time.

    Args:
        model: a DenseModel, or model(images [1, 3, H, W], size=(h, w)) whose result has `.pixels` [1, D, h, w].
        samples: (image, label map) pairs, or objects with `.image` and `.target` (`dense_ctx.data`). Features are
            computed at the label map's size.
        tolerance: pixels, centre to centre; an edge pixel within it of a boundary pixel is correct, a boundary pixel
            within it of an edge pixel is detected.
        ignore_index: id of void pixels; negative ids are void too. Edges in void, or within the tolerance and one
            pixel of it, are not counted.
        thresholds: of edge strength, increasing, above 0.

    Raises:
        InputError: no sample, no boundary in any mask, a mask or image below 8 pixels, NaN features, thresholds that
            do not increase.
        FileError: an image or mask cannot be read.
    """
    levels = np.asarray(thresholds, dtype=np.float64)
    if levels.ndim != 1 or len(levels) == 0 or not levels[0] > 0 or not (np.diff(levels) > 0).all():
        raise InputError(f"thresholds are increasing numbers above 0, at least one; got {len(levels)} of them")
    if not 0 <= tolerance < math.inf:
        raise InputError(f"tolerance={tolerance} pixels is not at least 0")
    total = np.zeros((4, len(levels)), dtype=np.int64)
    best = np.zeros(4, dtype=np.int64)
    scores: list[float] = []
    evaluated = near = 0
    for number, sample in enumerate(samples):
        pair = isinstance(sample, (tuple, list)) and len(sample) == 2
        if not pair and not (hasattr(sample, "image") and hasattr(sample, "target")):
            raise InputError(f"Sample {number} is not a pair (image, label map) and has no .image and .target")
        image, target = sample if isinstance(sample, (tuple, list)) else (sample.image, sample.target)
        labels = load_mask(target).cpu().numpy()
        check_size(labels.shape, f"Mask {number}")
        pixels = extract(model, read_image(image, f"Image {number}"), labels.shape, f"image {number}")
        void = labels < 0 if ignore_index is None else (labels < 0) | (labels == ignore_index)
        counts, pixels_near, pixels_all = _counts(edge_strength(pixels).cpu().numpy(), labels, void, tolerance, levels)
        total += counts
        evaluated, near = evaluated + pixels_all, near + pixels_near
        f = _f(counts)
        top = len(f) - 1 - int(f[::-1].argmax())  # among ties the highest threshold, with the fewest false edges
        best += counts[:, top]
        scores.append(float(f[top]) if counts[3, 0] else math.nan)
    if not scores:
        raise InputError("No samples; expected at least one (image, label map) pair")
    if total[3, 0] == 0:
        raise InputError(
            f"No boundary in any of the {len(scores)} masks: each has one id only, or void between all its regions "
            "(then fill the void first, or pass ignore_index=None)"
        )
    f = _f(total)
    top = int(f.argmax())
    correct, edges, detected, boundary = (int(value) for value in total[:, top])
    density = near / evaluated if evaluated else 0.0
    return BoundaryQuality(
        ods=float(f[top]),
        ois=float(_f(best[:, None])[0]),
        precision=correct / edges if edges else math.nan,
        recall=detected / boundary,
        threshold=float(levels[top]),
        floor=2 * density / (1 + density),
        per_image=tuple(scores),
        n=evaluated,
        boundary=boundary,
        images=len(scores),
        tolerance=tolerance,
        thresholds=tuple(float(level) for level in levels),
    )


def _counts(strength: Array, labels: Array, void: Array, tolerance: float, levels: Array) -> tuple[Array, int, int]:
    """[4, thresholds] (correct edges, edges, detected boundary, boundary); pixels near a boundary, pixels evaluated."""
    boundary = label_boundaries(labels, void)
    counted = _distance(void) > tolerance + 1  # the stencil of the gradient reaches one pixel further
    near = _distance(boundary) <= tolerance
    # a boundary pixel is detected at a threshold if the strongest edge within the tolerance reaches it: one maximum
    # filter over a disc replaces a distance transform at every threshold
    reach = int(tolerance)
    ys, xs = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    strongest = ndimage.maximum_filter(
        np.where(void, 0, strength), footprint=ys**2 + xs**2 <= tolerance**2, mode="constant", cval=0.0
    )
    rows = (strength[counted & near], strength[counted], strongest[boundary])
    reached = [_at_least(values, levels) for values in rows]
    full = np.full(len(levels), int(boundary.sum()), dtype=np.int64)
    return np.stack([*reached, full]), int((counted & near).sum()), int(counted.sum())


def _distance(mask: Array) -> Array:
    """Pixels to the nearest True, centre to centre; infinite if there is none."""
    if not mask.any():
        return np.full(mask.shape, np.inf)
    distance: Array = ndimage.distance_transform_edt(~mask)
    return distance


def _at_least(values: Array, levels: Array) -> Array:
    """Number of values at or above each level."""
    return len(values) - np.searchsorted(np.sort(values), levels, side="left")


def _f(counts: Array) -> Array:
    """F of each column; 0 if nothing is correct or nothing detected."""
    correct, edges, detected, boundary = counts.astype(np.float64)
    precision, recall = correct / np.maximum(edges, 1), detected / np.maximum(boundary, 1)
    both = precision + recall
    return np.where(both > 0, 2 * precision * recall / np.where(both > 0, both, 1), 0.0)


def _shifted(image: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Bilinear values of [H, W] at positions [H, W]; 0 outside."""
    width = image.shape[1]
    padded = functional.pad(image, (2, 2, 2, 2))
    x, y = x + 2, y + 2  # positions are at most one pixel outside
    column, row = x.floor().long(), y.floor().long()
    u, v = x - column, y - row
    flat = padded.flatten()
    at = row * (width + 4) + column
    upper = flat[at] * (1 - u) + flat[at + 1] * u
    lower = flat[at + width + 4] * (1 - u) + flat[at + width + 5] * u
    return upper * (1 - v) + lower * v
