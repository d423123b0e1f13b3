"""The contract of segmenters, for tests of those that others register: check_segmenter("my-segmenter")."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dense_ctx.interfaces import Size
from dense_ctx.testing.common import Clauses, factory, noise

from .segmenters import Segmenter, check_segments

SIZES: tuple[Size, ...] = ((48, 72), (72, 48), (40, 56))  # of results, in pixels
STRIDE = 8  # of the features


def check_segmenter(segmenter: Any, **arguments: Any) -> list[str]:
    """Verify the clauses of `Segmenter` on small smooth pictures.

    Args:
        segmenter: a registered name, the class, or a function that builds one. arguments: of it.

    Returns:
        The names of the clauses that hold.

    Raises:
        ContractError: at the first clause that is broken.
    """
    build = factory("segmenter", segmenter, arguments)
    clauses = Clauses("segmenter", segmenter)
    with clauses.clause("builds") as require:
        part = build()
        require(isinstance(part, Segmenter), f"it is a {type(part).__name__}; expected a Segmenter")
        moved = part.to("cpu")
        require(isinstance(moved, Segmenter), f"to() gives a {type(moved).__name__}; expected the segmenter")
    images = [_picture(size, seed) for seed, size in enumerate(SIZES)]
    features = [_features(image) if part.reads_features else None for image in images]
    before = [image.clone() for image in images]
    single = []
    for image, deep, size in zip(images, features, SIZES, strict=True):
        with clauses.clause("segments"):
            segments = part(image, deep, size)
            check_segments(part, segments, size)
            single.append(segments)
    with clauses.clause("deterministic") as require:
        again = part(images[0], features[0], SIZES[0])
        require(torch.equal(again, single[0]), "the same picture gave other segments the second time")
    with clauses.clause("size"):
        half = (SIZES[0][0] // 2, SIZES[0][1] // 2)
        check_segments(part, part(images[0], features[0], half), half)
    with clauses.clause("batch") as require:
        for one, alone in zip(part.batch(images, features, SIZES), single, strict=True):
            require(torch.equal(one, alone), "batch() gives other segments than one image at a time")
    with clauses.clause("inputs") as require:
        same = all(map(torch.equal, images, before))
        require(same, "it changes the images that it is given")
    return clauses.done


def _picture(size: Size, seed: int) -> Tensor:
    """[3, H, W] in [0, 1], a few smooth blobs."""
    coarse = noise(1, 3, 3, 4, seed=seed)
    smooth = torch.nn.functional.interpolate(coarse, size, mode="bicubic", align_corners=False)[0]
    return smooth.sigmoid()


def _features(image: Tensor) -> Tensor:
    """[6, h, w], the picture's colours and their squares on a coarse grid."""
    small = torch.nn.functional.avg_pool2d(image[None], STRIDE)[0] - 0.5
    return torch.cat([small, small.square()])
