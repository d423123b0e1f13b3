"""Soft nearest-neighbour prediction of labels and its losses (DIP, eq. 1-3), by counts of labels, not one-hot pixels.

Labels are int64 with -1 ignored. They enter as counts: how many pixels of each class a patch holds. A nearest
upsampling of patch predictions is constant in a patch, so the mean over pixels is a sum over patches and classes,
weighted by these counts, and no map of classes x pixels is ever made.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from dense_ctx.errors import InputError
from dense_ctx.interfaces import Size

Loss = Literal["nll", "official"]
IGNORED = -1
_FLOOR = 1e-8  # of a probability inside a logarithm


def label_counts(labels: Tensor, grid: Size, classes: int) -> Tensor:
    """Pixels of each class in each patch: labels [B, H, W] to float32 [B, h * w, classes].

    H and W divide by the grid (h, w); ignored pixels are not counted.

    Raises:
        InputError: another shape, or an id outside -1 .. classes - 1.
    """
    if labels.ndim != 3 or labels.shape[1] % grid[0] or labels.shape[2] % grid[1]:
        raise InputError(f"labels are [B, H, W], H, W multiples of the grid {tuple(grid)}; got {list(labels.shape)}")
    low, high = (int(labels.min()), int(labels.max())) if labels.numel() else (0, 0)
    if low < IGNORED or high >= classes:
        raise InputError(
            f"label ids run from {low} to {high}; expected 0 to {classes - 1}, or {IGNORED} for ignored pixels. "
            f"Are the labels of another clustering than classes={classes}?"
        )
    batch, height, width = labels.shape
    rows = torch.arange(height, device=labels.device) * grid[0] // height
    columns = torch.arange(width, device=labels.device) * grid[1] // width
    patch = rows[:, None] * grid[1] + columns
    place = patch + torch.arange(batch, device=labels.device)[:, None, None] * (grid[0] * grid[1])
    known = labels >= 0
    # one place for each (image, patch, class): float32 counts whole numbers up to 2^24 exactly
    found = torch.bincount((place * classes + labels)[known], minlength=batch * grid[0] * grid[1] * classes)
    return found.view(batch, grid[0] * grid[1], classes).float()


def compact(*labels: Tensor) -> tuple[list[Tensor], Tensor]:
    """Renumber the classes that occur: labels with ids 0 .. K - 1 (-1 stays), and the K ids they had, rising."""
    present = torch.unique(torch.cat([item.flatten() for item in labels]))
    present = present[present >= 0]
    table = torch.arange(len(present), device=present.device)
    made = []
    for item in labels:
        place = torch.searchsorted(present, item.clamp_min(0)).clamp_max(max(0, len(present) - 1))
        made.append(torch.where(item >= 0, table[place], IGNORED) if len(present) else torch.full_like(item, IGNORED))
    return made, present


def blocks_of(rank: int, batch: int, distractors: Tensor) -> Tensor:
    """Which images support each query: int64 [batch, 1 + n]; its own positive, then its distractors.

    Args:
        rank: of this process; its queries are the images rank * batch ... of the joint batch.
        distractors: int64 [n, joint batch], one row per distractor.
    """
    own = torch.arange(rank * batch, (rank + 1) * batch, device=distractors.device)
    return torch.cat([own[None], distractors[:, own]]).T


def soft_predict(
    queries: Tensor, keys: Tensor, values: Tensor, support: Tensor, temperature: float = 0.07
) -> tuple[Tensor, Tensor]:
    """Predict labels of query patches from all patches of their supports (DIP, eq. 1 and 2).

    An image that supports a query m times weighs m times as much: with few images in the batch their similarities are
    computed once each.

    Args:
        queries: [B, N, D]; keys: [M, N', D]; neither needs to be normalised.
        values: labels' counts [M, N', K] of the key patches; a patch that holds none takes no part.
        support: int64 [B, S], the images among M that support each query.
        temperature: of the softmax.

    Returns:
        [B, N, K], non-negative, summing to 1; and [B], whether a query had any labelled support patch.

    Raises:
        InputError: shapes that do not match, or nothing in the support.
    """
    if support.ndim != 2 or support.shape[1] < 1 or len(support) != len(queries):
        raise InputError(f"support is [B, S] with S at least 1 for {len(queries)} queries; got {list(support.shape)}")
    if queries.shape[-1] != keys.shape[-1] or keys.shape[:2] != values.shape[:2]:
        shapes = ", ".join(str(list(item.shape)) for item in (queries, keys, values))
        raise InputError(f"queries [B, N, D], keys [M, N', D], values [M, N', K] do not match: {shapes}")
    queries, keys = functional.normalize(queries, dim=-1), functional.normalize(keys, dim=-1)
    total = values.sum(-1)
    shares = values / total.clamp_min(1)[..., None]
    # [B, M]: how often an image supports a query; log m added to a score is that key taken m times
    times = functional.one_hot(support, len(keys)).sum(1)
    if len(keys) <= support.shape[1]:  # most images support most queries: all at once
        return _weighted(queries, keys.flatten(0, 1), shares.flatten(0, 1), times, total, temperature)
    rows, known = [], []
    for query, count in zip(queries, times, strict=True):
        used = count.nonzero()[:, 0]
        found, alive = _weighted(
            query[None],
            keys[used].flatten(0, 1),
            shares[used].flatten(0, 1),
            count[None, used],
            total[used],
            temperature,
        )
        rows.append(found)
        known.append(alive)
    return torch.cat(rows), torch.cat(known)


def _weighted(
    queries: Tensor, keys: Tensor, shares: Tensor, times: Tensor, total: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Means [B, N, K] of shares [R, K] of keys [R, D] for queries [B, N, D], images weighed by times [B, M].

    total: labelled pixels [M, N'] of each key patch; M x N' = R.
    """
    weight = times.to(queries.dtype).log()[:, :, None].expand(-1, -1, total.shape[1])
    weight = weight.masked_fill(total[None] == 0, float("-inf")).flatten(1)
    known = weight.isfinite().any(1)
    weight = weight.masked_fill(~known[:, None], 0)  # no labelled patch at all: nothing to say, and no NaN
    scores = queries @ keys.T / temperature + weight[:, None]
    predicted = scores.softmax(-1) @ shares.to(queries.dtype)
    return predicted * known[:, None, None], known


def prediction_loss(predicted: Tensor, counts: Tensor, kind: Loss, classes: int) -> tuple[Tensor, Tensor]:
    """Sum over labelled pixels of the loss of predictions [B, N, K] for labels' counts [B, N, K]; and their number.

    "nll": -log p of the pixel's class, p at least 1e-8 (DIP, eq. 3). "official": the cross-entropy of the published
    code, which takes the probabilities for logits: log sum exp(p) - p. It cannot fall below log(e + classes - 1) - 1.

    Args:
        classes: all classes, also those of which no pixel is in the batch (K may be fewer): each has p = 0.
    """
    if kind == "nll":
        loss = -(counts * predicted.clamp_min(_FLOOR).log()).sum()
    elif kind == "official":
        others = classes - predicted.shape[-1]
        partition = (predicted.exp().sum(-1) + others).log()
        loss = (counts.sum(-1) * partition).sum() - (counts * predicted).sum()
    else:
        raise InputError(f"loss={kind!r}: expected 'nll' or 'official'")
    return loss, counts.sum()
