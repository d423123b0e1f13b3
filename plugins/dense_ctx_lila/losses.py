"""LILA's loss on the query frame: L1 plus gradient matching (equations 3 to 6)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_CHUNK = 1 << 18  # values worked on at a time: they and their gradients stay in a core's cache


def edge_loss(prediction: Tensor, target: Tensor, sigma: float = 0.1, reduction: str = "mean") -> Tensor:
    """Match the gradients of cue maps where the target has an edge (eq. 4, 5).

    sum over both axes of (1 - exp(-d target / sigma)) * |d prediction - d target|, d the absolute forward difference.

    Args:
        prediction, target: [B, m, H, W].
        sigma: of the weight, in units of the target.
        reduction: "mean" over each axis' differences (the text does not say; this is ours), or "sum".

    Returns:
        [], both axes added.
    """
    total = prediction.new_zeros(())
    for axis in (-1, -2):
        change, wanted = prediction.diff(dim=axis).abs(), target.diff(dim=axis).abs()
        if not change.numel():
            continue
        terms = -torch.expm1(-wanted / sigma) * (change - wanted).abs()
        total = total + (terms.mean() if reduction == "mean" else terms.sum())
    return total


def matching_loss(
    prediction: Tensor, target: Tensor, weights: Tensor, sigma: float = 0.1, gamma: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """L1 and edges of every channel in one pass, the gradient with them (eq. 3, 6).

    Value and gradient are those of `l1.mean() + gamma * edge_loss()` per channel, weighted; a few channels at a time go
    through the cache once, where the composition of whole-map operations goes through memory some twenty times.

    Args:
        prediction, target: [B, m, H, W]; only the prediction gets a gradient.
        weights: [m], of the channels; the losses are sums over channels of weight * mean over batch and pixels.

    Returns:
        total [] with a gradient, L1 of each channel [m], edges of each channel [m] (both unweighted, for logs).
    """
    total, fit, edges = _Matching.apply(prediction, target, weights, sigma, gamma)
    return total, fit, edges


class _Matching(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, prediction: Tensor, target: Tensor, weights: Tensor, sigma: float, gamma: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        batch, channels, height, width = prediction.shape
        fit = prediction.new_zeros(channels, dtype=torch.float32)
        edges = torch.zeros_like(fit)
        wanted = ctx.needs_input_grad[0]
        grad = torch.empty_like(prediction) if wanted else None
        size = max(1, _CHUNK // (height * width))
        pixels = batch * height * width
        # differences an axis has: one less than its pixels
        counts = (max(1, batch * height * (width - 1)), max(1, batch * (height - 1) * width))
        for b in range(batch):
            for start in range(0, channels, size):
                part = slice(start, start + size)
                p, t, w = prediction[b, part], target[b, part], weights[part, None, None]
                off = p - t
                fit[part] += off.abs().sum((1, 2)) / pixels
                g = off.sign() * (w / pixels)
                if gamma:
                    _edges(p, t, edges[part], g, w * gamma, sigma, counts)
                if grad is not None:
                    grad[b, part] = g
        total = (weights * (fit + gamma * edges)).sum()
        if grad is not None:
            ctx.save_for_backward(grad)
        ctx.mark_non_differentiable(fit, edges)
        return total, fit, edges

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None, None, None]:
        (grad,) = ctx.saved_tensors
        return grad * grads[0], None, None, None, None


def _edges(
    prediction: Tensor, target: Tensor, sums: Tensor, grad: Tensor, scale: Tensor, sigma: float, counts: tuple[int, int]
) -> None:
    """Add both axes' terms to `sums` and their gradient to `grad`."""
    for axis, count in zip((-1, -2), counts, strict=True):
        change, wanted = prediction.diff(dim=axis), target.diff(dim=axis).abs_()
        if not change.numel():
            continue
        weight = torch.expm1(wanted * (-1 / sigma)).neg_()
        excess = change.abs().sub_(wanted)
        sums += (weight * excess.abs()).sum((1, 2)) / count
        pull = change.sign_().mul_(excess.sign_()).mul_(weight).mul_(scale / count)
        length = prediction.shape[axis]
        grad.narrow(axis, 1, length - 1).add_(pull)
        grad.narrow(axis, 0, length - 1).sub_(pull)
