"""Positive pairs: nearest images by global feature that share a pseudo-class (DIP, section 3.2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from dense_ctx.errors import InputError

Shares = Mapping[int, float]  # pseudo-class -> share of the image's pixels


def nearest_images(features: Tensor, count: int, block: int = 1024) -> Iterator[tuple[int, list[int]]]:
    """Of each image the `count` others with the most similar (cosine) global features [N, C], nearest first.

    In blocks, so that N images take N x block similarities at a time.
    """
    if features.ndim != 2 or count < 1:
        raise InputError(f"features are [N, C] and count at least 1; got {list(features.shape)}, {count}")
    unit = functional.normalize(features.float(), dim=1)
    wanted = min(count, len(unit) - 1)
    for start in range(0, len(unit), block):
        scores = unit[start : start + block] @ unit.T
        mine = torch.arange(start, start + len(scores))
        scores[mine - start, mine] = -float("inf")  # not itself, whatever its copies score
        order = scores.topk(wanted, dim=1).indices if wanted else scores[:, :0].long()
        yield from zip(mine.tolist(), order.tolist(), strict=True)


def shared_class(one: Shares, two: Shares) -> tuple[int, float]:
    """The class that covers most of both images, and the smaller of its two shares; (-1, 0) without one."""
    both = [(min(share, two[key]), -key) for key, share in one.items() if key in two]
    share, key = max(both, default=(0.0, 1))
    return -key, share


def positive_pairs(
    features: Tensor, shares: Sequence[Shares], neighbours: int = 5, threshold: float = 0.05
) -> Iterator[tuple[int, int, int, float]]:
    """(query, positive, shared class, its share) of the neighbours that share more than `threshold` of both images.

    Raises:
        InputError: numbers that make no sense.
    """
    if not 0 <= threshold < 1 or len(features) != len(shares):
        raise InputError(
            f"threshold={threshold} is within [0, 1), with the classes' shares of each of {len(features)} images; "
            f"got those of {len(shares)}"
        )
    for query, found in nearest_images(features, neighbours):
        for positive in found:
            key, share = shared_class(shares[query], shares[positive])
            if share > threshold:
                yield query, positive, key, share
