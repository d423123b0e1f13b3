"""Soft nearest-neighbour prediction of labels and its losses (DIP, eq. 1-3), on label counts instead of one-hot maps.

Labels are int64 with -1 ignored. They enter as counts: the number of pixels of each class in a patch. Nearest
upsampling of patch predictions is constant within a patch, so the mean over pixels is a sum over patches and classes
weighted by these counts; no map of classes x pixels is needed.
"""

from __future__ import annotations

from typing import Literal

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from dense_ctx.errors import InputError
from dense_ctx.interfaces import Size
from dense_ctx.numerics import holds

Loss = Literal["nll", "official"]
IGNORED = -1
_FLOOR = 1e-8  # of a probability, inside a logarithm


def label_counts(labels: Tensor, grid: Size, classes: int) -> Tensor:
    """Count the pixels of each class in each patch: labels [B, H, W] to float32 [B, h * w, classes].

    H and W are multiples of the grid (h, w); ignored pixels are not counted.

    Raises:
        InputError: another shape, or an id outside -1 .. classes - 1.
    """
    if labels.ndim != 3 or labels.shape[1] % grid[0] or labels.shape[2] % grid[1]:
        raise InputError(f"labels are [B, H, W], H, W multiples of the grid {tuple(grid)}; got {list(labels.shape)}")
    if not holds(((labels >= IGNORED) & (labels < classes)).all()):
        low, high = int(labels.min()), int(labels.max())
        raise InputError(
            f"label ids run from {low} to {high}; expected 0 to {classes - 1}, or {IGNORED} for ignored pixels. "
            f"Are the labels of another clustering than classes={classes}?"
        )
    batch, height, width = labels.shape
    rows = torch.arange(height, device=labels.device) * grid[0] // height
    columns = torch.arange(width, device=labels.device) * grid[1] // width
    patch = rows[:, None] * grid[1] + columns
    index = patch + torch.arange(batch, device=labels.device)[:, None, None] * (grid[0] * grid[1])
    # one bin for each (image, patch, class); float32 is exact for integers up to 2^24
    counts = torch.zeros(batch * grid[0] * grid[1] * classes, device=labels.device)
    bins = index * classes + labels.clamp(0, classes - 1)
    counts.scatter_add_(0, bins.flatten(), (labels >= 0).flatten().float())
    return rearrange(counts, "(b patch k) -> b patch k", patch=grid[0] * grid[1], k=classes)


def pixels_of(segments: Tensor, grid: tuple[int, int]) -> Tensor:
    """Pixels of each segment of a map [H, W] in each patch of a grid, [segments, h * w]."""
    return label_counts(segments[None], grid, max(1, int(segments.max()) + 1))[0].T


def classes_in(*labels: Tensor) -> Tensor:
    """The ids from 0 that occur in labels, increasing; the host waits for the device."""
    ids: Tensor = torch.unique(torch.cat([item.flatten() for item in labels]))
    return ids[ids >= 0]


def compact(*labels: Tensor, present: Tensor) -> list[Tensor]:
    """Renumber the K classes that occur, `present`, increasing: labels with ids 0 .. K - 1; -1 stays.

    Raises:
        InputError: a label is not among `present`.
    """
    table = torch.arange(len(present), device=present.device)
    renumbered = []
    for item in labels:
        index = torch.searchsorted(present, item.clamp_min(0))
        index = index.clamp_max(len(present) - 1)
        ids = table[index] if len(present) else torch.full_like(item, IGNORED)
        if not holds(((item < 0) | (present[index] == item if len(present) else False)).all()):
            raise InputError(f"The batch says that its classes are {present.tolist()}, and its labels hold others")
        renumbered.append(torch.where(item >= 0, ids, IGNORED))
    return renumbered


def blocks_of(rank: int, batch: int, distractors: Tensor) -> Tensor:
    """The images that support each query, int64 [batch, 1 + n]: its own positive, then its distractors.

    Args:
        rank: of this process; its queries are the images rank * batch ... of the joint batch.
        distractors: int64 [n, joint batch], one row per distractor.
    """
    own = torch.arange(rank * batch, (rank + 1) * batch, device=distractors.device)
    return torch.cat([own[None], distractors[:, own]]).T


def soft_predict(
    queries: Tensor, keys: Tensor, values: Tensor, support: Tensor, temperature: float = 0.07
) -> tuple[Tensor, Tensor]:
    """Predict labels of query patches from all patches of their support images (DIP, eq. 1 and 2).

    An image that supports a query m times has m times the weight; its similarities are computed once.

    Args:
        queries: [B, N, D]; keys: [M, N', D]; neither needs to be normalised.
        values: label counts [M, N', K] of the key patches; a patch without labelled pixels is left out.
        support: int64 [B, S], the images among M that support each query.
        temperature: of the softmax.

    Returns:
        [B, N, K], non-negative, with sum 1; and bool [B], whether a query has any labelled support patch.

    Raises:
        InputError: shapes do not match, or the support is empty.
    """
    if support.ndim != 2 or support.shape[1] < 1 or len(support) != len(queries):
        raise InputError(f"support is [B, S] with S at least 1 for {len(queries)} queries; got {list(support.shape)}")
    if queries.shape[-1] != keys.shape[-1] or keys.shape[:2] != values.shape[:2]:
        shapes = ", ".join(str(list(item.shape)) for item in (queries, keys, values))
        raise InputError(f"queries [B, N, D], keys [M, N', D], values [M, N', K] do not match: {shapes}")
    queries, keys = functional.normalize(queries, dim=-1), functional.normalize(keys, dim=-1)
    total = values.sum(-1)
    shares = values / total.clamp_min(1)[..., None]
    # [B, M]: how often an image supports a query; adding log m to a score repeats that key m times
    times = functional.one_hot(support, len(keys)).sum(1)
    if len(keys) <= support.shape[1]:  # most images support most queries: compute all together
        return _weighted(queries, keys, shares, times, total, temperature)
    rows, valid = [], []
    # of an image that occurs again only the first counts; their number is then the same for every query
    images = support.sort(1).values
    again = functional.pad(images[:, 1:] == images[:, :-1], (1, 0))
    weights = times.gather(1, images).masked_fill(again, 0)
    for query, one, weight in zip(queries, images, weights, strict=True):
        prediction, labelled = _weighted(query[None], keys[one], shares[one], weight[None], total[one], temperature)
        rows.append(prediction)
        valid.append(labelled)
    return torch.cat(rows), torch.cat(valid)


def _weighted(
    queries: Tensor, keys: Tensor, shares: Tensor, times: Tensor, total: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Weighted means [B, N, K] of shares [M, N', K] of keys [M, N', D], for queries [B, N, D].

    times: weights [B, M] of the images. total: number of labelled pixels [M, N'] of each key patch.
    """
    weight = times.to(queries.dtype).log()[:, :, None].expand(-1, -1, total.shape[1])
    weight = rearrange(weight.masked_fill(total[None] == 0, float("-inf")), "b m n -> b (m n)")
    keys, shares = rearrange(keys, "m n d -> (m n) d"), rearrange(shares, "m n k -> (m n) k")
    valid = weight.isfinite().any(1)
    weight = weight.masked_fill(~valid[:, None], 0)  # avoids NaN for a query without a labelled support patch
    scores = queries @ keys.T / temperature + weight[:, None]
    predicted = scores.softmax(-1) @ shares.to(queries.dtype)
    return predicted * valid[:, None, None], valid


def prediction_loss(predicted: Tensor, counts: Tensor, kind: Loss, classes: int) -> tuple[Tensor, Tensor]:
    """Sum the loss of predictions [B, N, K] over the labelled pixels in counts [B, N, K]; and their number.

    "nll": -log p of the pixel's class, p at least 1e-8 (DIP, eq. 3). "official": the cross-entropy of the published
    code, which uses the probabilities as logits: log sum exp(p) - p. Its minimum is log(e + classes - 1) - 1.

    Args:
        classes: the number of all classes; those beyond K do not occur in the batch and have p = 0.
    """
    if kind == "nll":
        loss = -(counts * predicted.clamp_min(_FLOOR).log()).sum()
    elif kind == "official":
        absent = classes - predicted.shape[-1]
        partition = (predicted.exp().sum(-1) + absent).log()
        loss = (counts.sum(-1) * partition).sum() - (counts * predicted).sum()
    else:
        raise InputError(f"loss={kind!r}: expected 'nll' or 'official'")
    return loss, counts.sum()
