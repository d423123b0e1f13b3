"""Pixel-adaptive mask refinement (Araslanov and Roth, CVPR 2020) of feature maps, as used in LILA.

Each iteration replaces a pixel's features by a weighted mean of its neighbours', with weights that depend on the image
alone. One iteration is therefore the product with one sparse matrix of 8 entries a row and dilation, built once and
applied many times: the features pass through memory once an iteration, not once a neighbour. What it does is linear in
the features, so that no more columns than the features have cells ever need it.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor
from torch.nn import functional

from dense_ctx.errors import InputError

# rows of a 3 x 3 window, the centre left out
_OFFSETS = tuple((y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0))
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
    _, channels, height, width = features.shape
    if height * width > _FEW * channels:
        return _refine(features, image.float(), pyramid, iterations, dilations)
    # fewer cells than channels: refine each cell's share of every pixel, and mix the cells' features by them
    cells = repeat(torch.eye(height * width, device=image.device), "(h w) cell -> b cell h w", b=len(image), h=height)
    shares = _refine(cells, image.float(), pyramid, iterations, dilations)
    rows = rearrange(features, "b c h w -> b (h w) c")
    mean = rows.mean(1, keepdim=True)  # means are kept; what differs from them may be far smaller and needs the digits
    mixed = rearrange(shares, "b cell h w -> b (h w) cell") @ (rows - mean) + mean
    return rearrange(mixed, "b (h w) c -> b c h w", h=shares.shape[-2])


def _refine(
    features: Tensor, image: Tensor, pyramid: Sequence[int], iterations: Sequence[int], dilations: Sequence[int]
) -> Tensor:
    current = features
    for factor, count in zip(pyramid, iterations, strict=True):
        size = (max(1, image.shape[-2] // factor), max(1, image.shape[-1] // factor))
        level = image
        if factor > 1:
            level = functional.interpolate(image, size=size, mode="bilinear", align_corners=False, antialias=True)
        if tuple(current.shape[-2:]) != size:
            current = functional.interpolate(current, size=size, mode="bilinear", align_corners=True)
        if count:
            # memory of our own that no gradient needs is worked in
            free = current is not features and not current.requires_grad
            current = _iterate(current, affinity(level, dilations), dilations, count, free)
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
    away = [shifted(y * d, x * d) - image for d in dilations for y, x in _OFFSETS]
    count = len(away) + len(dilations)  # and the centres, which differ from themselves by nothing
    total, square = torch.zeros_like(image), torch.zeros_like(image)
    for one in away:
        total += one
        square.addcmul_(one, one)
    std = square.sub_(total.square_().div_(count)).clamp_min_(0).div_(count - 1).sqrt_()
    scale = (1e-8 + 0.1 * std).reciprocal_().neg_()
    scores = torch.stack([one.abs_().mul_(scale).mean(1) for one in away], 1)
    return scores.softmax(1)


def _iterate(features: Tensor, weights: Tensor, dilations: Sequence[int], count: int, free: bool) -> Tensor:
    batch, _, height, width = features.shape
    # pixels as rows, channels side by side: a row of the product reads a few whole rows of the features
    rows = rearrange(features, "b c h w -> (b h w) c")
    values = rearrange(weights, "b near h w -> (b h w near)")
    columns = _neighbours(batch, height, width, tuple(dilations), features.device)
    result: Tensor = _Repeated.apply(rows, values, columns, count, free)
    return rearrange(result, "(b h w) c -> b c h w", b=batch, h=height)


def _neighbours(batch: int, height: int, width: int, dilations: tuple[int, ...], device: torch.device) -> Tensor:
    """Row of each neighbour of each pixel, int32 [B * H * W, 8 * len(dilations)]."""
    y = torch.arange(height, device=device, dtype=torch.int32)[:, None]
    x = torch.arange(width, device=device, dtype=torch.int32)[None]
    near = [
        (y + dy * d).clamp(0, height - 1) * width + (x + dx * d).clamp(0, width - 1)
        for d in dilations
        for dy, dx in _OFFSETS
    ]
    one = rearrange(near, "near h w -> 1 (h w) near")
    first = torch.arange(batch, device=device, dtype=torch.int32)[:, None, None] * (height * width)
    return rearrange(one + first, "b pixel near -> (b pixel) near")


class _Repeated(torch.autograd.Function):
    """A^n X for a sparse A that needs no gradient; backward is (A^T)^n."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, values: Tensor, columns: Tensor, count: int, free: bool) -> Tensor:
        ctx.save_for_backward(values, columns)
        ctx.count = count
        return _power(_csr(values, columns), rows, count, free)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        values, columns = ctx.saved_tensors
        matrix = _csr(values, columns).to_sparse_coo().t().to_sparse_csr()
        return _power(matrix, grads[0].contiguous(), ctx.count, False), None, None, None, None


def _power(matrix: Tensor, rows: Tensor, count: int, free: bool) -> Tensor:
    """A^n X, back and forth between two buffers: fresh memory an iteration would cost more than the product.

    free: `rows` may be one of them.
    """
    source, target = rows, torch.empty_like(rows)
    for _ in range(count):
        spare = source if free or source is not rows else torch.empty_like(rows)
        torch.addmm(target, matrix, source, beta=0, out=target)
        source, target = target, spare
    return source


def _csr(values: Tensor, columns: Tensor) -> Tensor:
    count, near = columns.shape
    starts = torch.arange(0, (count + 1) * near, near, device=columns.device, dtype=torch.int32)
    with (
        warnings.catch_warnings()
    ):  # PyTorch warns once that CSR tensors are in beta; the operations used here are tested
        warnings.filterwarnings("ignore", message="Sparse")
        return torch.sparse_csr_tensor(starts, columns.reshape(-1), values, size=(count, count), check_invariants=False)
