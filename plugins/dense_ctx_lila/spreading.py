"""PAMR's iterations on one level as an operation of PyTorch: a sparse matrix on a CPU, a Triton stencil on a GPU."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from . import fused

# rows of a 3 x 3 window, the centre left out
OFFSETS = tuple((y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0))


@torch.library.custom_op("dense_ctx_lila::spread", mutates_args=())
def spread(features: Tensor, weights: Tensor, dilations: list[int], count: int) -> Tensor:
    """Bring features to the level's size; then `count` times each pixel's are the weighted sum of its neighbours'.

    Linear in the features, and differentiable in them alone.

    Args:
        features: [B, C, h, w], float32.
        weights: [B, 8 * len(dilations), H, W], float32; see `pamr.affinity`. dilations: of the neighbours.
        count: at least 1.

    Returns:
        [B, H, W, C].
    """
    size = (weights.shape[-2], weights.shape[-1])
    own = tuple(features.shape[-2:]) != size
    if own:
        features = functional.interpolate(features, size=size, mode="bilinear", align_corners=True)
    # channels side by side: a pixel of the sum reads a few whole pixels
    rows = rearrange(features, "b c h w -> b h w c").contiguous()
    if fused.usable(fused.stencil_error, rows, weights):
        return fused.stencil(rows, weights.contiguous(), dilations, count)
    return sparse(rows, weights, dilations, count, own)


def sparse(rows: Tensor, weights: Tensor, dilations: list[int], count: int, free: bool = False) -> Tensor:
    """The iterations alone, of rows [B, H, W, C], by a sparse matrix; free: `rows` may be worked in."""
    return _power(_matrix(weights, dilations), rows.flatten(0, 2), count, free).view(rows.shape)


@spread.register_fake
def _(features: Tensor, weights: Tensor, dilations: list[int], count: int) -> Tensor:
    return features.new_empty(len(features), *weights.shape[-2:], features.shape[1])


@torch.library.custom_op("dense_ctx_lila::spread_back", mutates_args=())
def _spread_back(grad: Tensor, weights: Tensor, dilations: list[int], count: int, height: int, width: int) -> Tensor:
    """The transpose of `spread`: [B, H, W, C] to [B, C, height, width]. Sparse on every device."""
    matrix = _matrix(weights, dilations).to_sparse_coo().t().to_sparse_csr()
    rows = _power(matrix, grad.contiguous().flatten(0, 2), count, False).view(grad.shape)
    maps = rearrange(rows, "b h w c -> b c h w").contiguous()
    if (height, width) == tuple(maps.shape[-2:]):
        return maps.clone() if maps.data_ptr() == grad.data_ptr() else maps
    source = [*maps.shape[:2], height, width]
    result: Tensor = torch.ops.aten.upsample_bilinear2d_backward(maps, list(maps.shape[-2:]), source, True)
    return result


@_spread_back.register_fake
def _(grad: Tensor, weights: Tensor, dilations: list[int], count: int, height: int, width: int) -> Tensor:
    return grad.new_empty(len(grad), grad.shape[-1], height, width)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, weights, ctx.dilations, ctx.count = inputs
    ctx.size = features.shape[-2:]
    ctx.save_for_backward(weights)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return _spread_back(grad, *ctx.saved_tensors, ctx.dilations, ctx.count, *ctx.size), None, None, None


spread.register_autograd(_backward, setup_context=_keep)


def _matrix(weights: Tensor, dilations: list[int]) -> Tensor:
    """Of one iteration, sparse [B * H * W, B * H * W]."""
    batch, near, height, width = weights.shape
    columns = _neighbours(batch, height, width, dilations, weights.device)
    values = rearrange(weights, "b near h w -> (b h w near)")
    count = batch * height * width
    starts = torch.arange(0, (count + 1) * near, near, device=weights.device, dtype=torch.int32)
    # PyTorch warns once that CSR tensors are in beta; the operations used here are tested
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse")
        return torch.sparse_csr_tensor(starts, columns.reshape(-1), values, size=(count, count), check_invariants=False)


def _neighbours(batch: int, height: int, width: int, dilations: list[int], device: torch.device) -> Tensor:
    """Row of each neighbour of each pixel, int32 [B * H * W, 8 * len(dilations)]."""
    y = torch.arange(height, device=device, dtype=torch.int32)[:, None]
    x = torch.arange(width, device=device, dtype=torch.int32)[None]
    near = [
        (y + dy * d).clamp(0, height - 1) * width + (x + dx * d).clamp(0, width - 1)
        for d in dilations
        for dy, dx in OFFSETS
    ]
    one = rearrange(near, "near h w -> 1 (h w) near")
    first = torch.arange(batch, device=device, dtype=torch.int32)[:, None, None] * (height * width)
    return rearrange(one + first, "b pixel near -> (b pixel) near")


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
