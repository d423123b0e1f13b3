"""LILA's loss of a prediction that is there, its regression applied to a query, and noise to give to its kernels."""

import torch
from dense_ctx_lila.matching_op import linear_matching
from dense_ctx_lila.targets import Targets

SHAPES = [  # images, height, width, features, products, maps, cells
    (2, 7, 17, 6, 33, 2, 9),  # two tiles across, two down; two blocks of channels
    (1, 1, 6, 20, 0, 3, 0),
    (2, 7, 1, 3, 2, 0, 3),
    (1, 5, 6, 270, 3, 1, 40),  # more features than a program has, more cells than a step
]


def matching_loss(prediction, target, weights, *settings):
    """`linear_matching` of maps [B, K, H, W] that are their own features."""
    batch, channels = prediction.shape[:2]
    eye = torch.eye(channels, dtype=prediction.dtype).expand(batch, -1, -1)
    return linear_matching(
        prediction.movedim(1, -1), eye, eye.new_zeros(batch, channels), Targets.of(target), weights, *settings
    )


def predict(regression, context, query, maps):
    """Maps [B, K, h, w] of the query, from those of the context."""
    weights, bias = regression.fit(context, Targets.of(maps).pixels(regression.stride))
    return torch.einsum("bdhw,bdk->bkhw", query, weights) + bias[..., None, None]


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def given(batch, height, width, dim, mixed, plain, cells, dtype=torch.float32):
    """What both forms are given: pixels, weights, bias, the targets' parts, shares."""
    channels = mixed + plain
    return (
        noise(batch, height, width, dim).to(dtype), noise(batch, channels, dim, seed=1).mT,  # as a solver leaves them
        noise(batch, channels, seed=2),
        (noise(batch, height, width, cells, seed=3), noise(batch, cells, mixed, seed=4), noise(batch, mixed, seed=5),
         noise(batch, height, width, plain, seed=6)), noise(channels, seed=7).abs(),
    )  # fmt: skip
