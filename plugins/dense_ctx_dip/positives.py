"""Positive pairs: nearest images by global feature that share a pseudo-class (DIP, section 3.2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from dense_ctx.errors import InputError

Shares = Mapping[int, float]  # pseudo-class -> share of the image's pixels


def nearest_images(features: Tensor, count: int, block: int = 1024) -> Iterator[tuple[int, list[int]]]:
    """For each image the `count` others with the most similar (cosine) global features [N, C], nearest first.

    Computed in blocks: N x block similarities are in memory at a time.
    """
    if features.ndim != 2 or count < 1:
        raise InputError(f"features are [N, C] and count at least 1; got {list(features.shape)}, {count}")
    unit = functional.normalize(features.float(), dim=1)
    limit = min(count, len(unit) - 1)
    for start in range(0, len(unit), block):
        scores = unit[start : start + block] @ unit.T
        rows = torch.arange(start, start + len(scores))
        scores[rows - start, rows] = -float("inf")  # an image is not its own neighbour, its duplicates may be
        order = scores.topk(limit, dim=1).indices if limit else scores[:, :0].long()
        yield from zip(rows.tolist(), order.tolist(), strict=True)


def shared_class(one: Shares, two: Shares) -> tuple[int, float]:
    """The class with the largest minimum of its shares in two images, and that minimum; (-1, 0) if none is shared."""
    both = [(min(share, two[key]), -key) for key, share in one.items() if key in two]
    share, key = max(both, default=(0.0, 1))
    return -key, share


def positive_pairs(
    features: Tensor, shares: Sequence[Shares], neighbours: int = 5, threshold: float = 0.05
) -> Iterator[tuple[int, int, int, float]]:
    """Pairs of neighbours that share a class on more than `threshold` of both: (query, positive, class, its share).

    Raises:
        InputError: the threshold is not in [0, 1), or the numbers of features and shares differ.
    """
    if not 0 <= threshold < 1 or len(features) != len(shares):
        raise InputError(
            f"threshold={threshold} is within [0, 1), with the classes' shares of each of {len(features)} images; "
            f"got those of {len(shares)}"
        )
    for query, candidates in nearest_images(features, neighbours):
        for positive in candidates:
            key, share = shared_class(shares[query], shares[positive])
            if share > threshold:
                yield query, positive, key, share
