"""LILA's loss as one operation of PyTorch: in blocks on a CPU, one pass of Triton kernels on a GPU.

It computes the gradient together with the value: a loss is differentiated once, and what both need (prediction,
targets, differences between neighbours) is then made once and never written.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dense_ctx.errors import InputError

from . import fused
from .losses import Sums, gradient_type
from .targets import Targets


def linear_matching(
    pixels: Tensor,
    weights: Tensor,
    bias: Tensor,
    targets: Targets,
    shares: Tensor,
    sigma: float = 0.1,
    gamma: float = 1.0,
    products: str = "float32",
) -> tuple[Tensor, Tensor, Tensor]:
    """L1 and edges (eq. 3, 6) of the prediction pixels @ weights + bias in one pass, the gradient with them.

    Value and gradient are those of `l1.mean() + gamma * edge_loss()` per channel, times its share. On CUDA Triton
    kernels compute it where `fused.usable` says so, and elsewhere the same sums in blocks (`losses.Sums`).

    Args:
        pixels: features [B, H, W, D], of any floating type; those below get no gradient but for weights and bias.
        weights: [B, D, K]. bias: [B, K].
        targets: maps of K channels.
        shares: [K], of the channels; the losses are sums over channels of share * mean over batch and pixels.
        sigma, gamma: of the edges, and their weight.
        products: see `products.multiply`.

    Returns:
        total [] with a gradient, L1 of each channel [K], edges of each channel [K] (both unweighted, for logs).
    """
    gradient = torch.is_grad_enabled() and any(x.requires_grad for x in (pixels, weights, bias))
    total, fit, edges, *_ = _matching(
        pixels, weights, bias, targets.shares, targets.cells, targets.offset, targets.plain, shares, sigma, gamma,
        products, gradient,
    )  # fmt: skip
    return total, fit, edges


@torch.library.custom_op("dense_ctx_lila::matching", mutates_args=())
def _matching(
    pixels: Tensor, weights: Tensor, bias: Tensor, cell_shares: Tensor, cells: Tensor, offset: Tensor, plain: Tensor,
    shares: Tensor, sigma: float, gamma: float, products: str, gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """total [], fit [K], edges [K], and gradients of the total by pixels, weights and bias, or empty."""
    parts = (cell_shares, cells, offset, plain)
    one = fused.usable(fused.matching_error, pixels, weights, products=products)
    arguments = (pixels, weights, bias, parts, shares, (sigma, gamma), products, gradient)
    total, fit, edges, *grads = fused.matching(*arguments) if one else Sums(*arguments).results
    by_pixels, by_weights, by_bias = (grad.contiguous() for grad in grads)  # the strides that a compiler was told
    return total, fit, edges, by_pixels, by_weights, by_bias


@_matching.register_fake
def _(
    pixels: Tensor, weights: Tensor, bias: Tensor, cell_shares: Tensor, cells: Tensor, offset: Tensor, plain: Tensor,
    shares: Tensor, sigma: float, gamma: float, products: str, gradient: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    each = weights.new_empty(weights.shape[-1], dtype=torch.float32)
    d_pixels = pixels.new_empty(pixels.shape if gradient else 0, dtype=gradient_type(pixels))
    d_weights, d_bias = (x.new_empty(x.shape if gradient else 0) for x in (weights, bias))
    return each.new_empty(()), each, torch.empty_like(each), d_pixels, d_weights, d_bias


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.dtype = inputs[0].dtype
    ctx.save_for_backward(*output[3:])
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled():  # create_graph: the saved gradients are constants, and would give a silent 0
        raise InputError(
            "LILA's loss is differentiated once: its gradient is made with its value. Leave create_graph out, or use "
            "dense_ctx_lila.losses.edge_loss and L1, which can be differentiated twice"
        )
    by_pixels, by_weights, by_bias = (saved * grads[0] for saved in ctx.saved_tensors)
    return by_pixels.to(ctx.dtype), by_weights, by_bias, *[None] * 9


_matching.register_autograd(_backward, setup_context=_keep)
