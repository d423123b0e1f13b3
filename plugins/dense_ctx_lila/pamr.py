"""Pixel-adaptive mask refinement (Araslanov and Roth, CVPR 2020) of feature maps, as used in LILA.

Each iteration replaces a pixel's features by a weighted mean of its neighbours', with weights that depend on the image
alone. One iteration is therefore the product with one sparse matrix of 8 entries a row and dilation, built once and
applied many times: the features pass through memory once an iteration, not once a neighbour. What it does is linear in
the features, so that no more columns than the features have cells ever need it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange, repeat
from torch import Tensor
from torch.nn import functional

from dense_ctx.errors import InputError

from .spreading import OFFSETS, spread

# cells a channel up to which the cells are refined: an iteration saved on a column is worth the product at the end
_FEW = 2 / 3


def refine(
    features: Tensor,
    image: Tensor,
    pyramid: Sequence[int] = (4, 2, 1),
    iterations: Sequence[int] = (20, 10, 5),
    dilations: Sequence[int] = (1, 3, 5),
) -> Tensor:
    """Refine features coarse to fine (LILA, appendix B): differentiable in the features, not in the image.

    Args:
        features: [B, C, h, w], any grid.
        image: [B, 3, H, W]; the result does not depend on a change of its mean and scale per channel.
        pyramid: the image is made smaller by each factor in turn; (1,) is the original method.
        iterations: at each level.
        dilations: of the 3 x 3 neighbourhoods, pixels of the level.

    Returns:
        [B, C, H // last factor, W // last factor], float32.

    Raises:
        InputError: sizes that do not match, or as many iterations as levels are not given.
    """
    if features.ndim != 4 or image.ndim != 4 or len(features) != len(image):
        raise InputError(
            f"features [B, C, h, w] and image [B, 3, H, W] have one batch; got {list(features.shape)} and "
            f"{list(image.shape)}"
        )
    if len(pyramid) != len(iterations) or not pyramid or min(pyramid) < 1 or min(iterations) < 0:
        raise InputError(f"pyramid={list(pyramid)} and iterations={list(iterations)}: one number of each a level")
    if not dilations or min(dilations) < 1:
        raise InputError(f"dilations={list(dilations)}: at least one, each at least 1")
    features = features.float()
    if not few_cells(features):
        return _refine(features, image.float(), pyramid, iterations, dilations)
    # refine each cell's share of every pixel, and mix the cells' features by them
    shares = refined_shares(features, image, pyramid, iterations, dilations)
    rows = rearrange(features, "b c h w -> b (h w) c")
    mean = rows.mean(1, keepdim=True)  # means are kept; what differs from them may be far smaller and needs the digits
    mixed = rearrange(shares, "b h w cell -> b (h w) cell") @ (rows - mean) + mean
    return rearrange(mixed, "b (h w) c -> b c h w", h=shares.shape[1])


def few_cells(features: Tensor) -> bool:
    """Whether features [B, C, h, w] have so few cells that their shares are refined, and not their channels."""
    return features.shape[-2] * features.shape[-1] <= _FEW * features.shape[1]


def refined_shares(
    features: Tensor,
    image: Tensor,
    pyramid: Sequence[int] = (4, 2, 1),
    iterations: Sequence[int] = (20, 10, 5),
    dilations: Sequence[int] = (1, 3, 5),
) -> Tensor:
    """Of each cell of features [B, C, h, w] in each pixel of `refine`'s result, [B, H, W, h * w]; they sum to 1."""
    height, width = features.shape[-2:]
    cells = repeat(torch.eye(height * width, device=image.device), "(h w) cell -> b cell h w", b=len(image), h=height)
    return rearrange(_refine(cells, image.float(), pyramid, iterations, dilations), "b cell h w -> b h w cell")


def _refine(
    features: Tensor, image: Tensor, pyramid: Sequence[int], iterations: Sequence[int], dilations: Sequence[int]
) -> Tensor:
    current = features
    for factor, count in zip(pyramid, iterations, strict=True):
        size = (max(1, image.shape[-2] // factor), max(1, image.shape[-1] // factor))
        level = image
        if factor > 1:
            level = functional.interpolate(image, size=size, mode="bilinear", align_corners=False, antialias=True)
        if count:
            rows = spread(current, affinity(level, dilations), list(dilations), count)
            current = rearrange(rows, "b h w c -> b c h w")
        elif tuple(current.shape[-2:]) != size:
            current = functional.interpolate(current, size=size, mode="bilinear", align_corners=True)
    return current


@torch.no_grad()
def affinity(image: Tensor, dilations: Sequence[int]) -> Tensor:
    """Weights of each pixel's neighbours, [B, 8 * len(dilations), H, W]; they sum to 1.

    exp(-|I_p - I_q| / (1e-8 + 0.1 std)), mean over the channels in the exponent, one softmax over all neighbours; std
    is of each channel over the neighbourhoods, the centre counted once a dilation, unbiased. Borders are replicated.
    """
    _, _, height, width = image.shape
    reach = max(dilations)
    padded = functional.pad(image, (reach,) * 4, mode="replicate")

    def shifted(y: int, x: int) -> Tensor:
        return padded[:, :, reach + y : reach + y + height, reach + x : reach + x + width]

    # differences to the centre: nothing is lost when their squares are summed, and the spread is that of the values
    away = [shifted(y * d, x * d) - image for d in dilations for y, x in OFFSETS]
    count = len(away) + len(dilations)  # and the centres, which differ from themselves by nothing
    total, square = torch.zeros_like(image), torch.zeros_like(image)
    for one in away:
        total += one
        square.addcmul_(one, one)
    std = square.sub_(total.square_().div_(count)).clamp_min_(0).div_(count - 1).sqrt_()
    scale = (1e-8 + 0.1 * std).reciprocal_().neg_()
    scores = torch.stack([one.abs_().mul_(scale).mean(1) for one in away], 1)
    return scores.softmax(1)
