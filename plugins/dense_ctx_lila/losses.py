"""LILA's loss on the query frame: L1 plus gradient matching (equations 3 to 6)."""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from torch import Tensor

_CHUNK = 1 << 16  # values worked on at a time: they and their gradients stay in a core's cache


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
        change, target_change = prediction.diff(dim=axis).abs(), target.diff(dim=axis).abs()
        if not change.numel():
            continue
        terms = -torch.expm1(-target_change / sigma) * (change - target_change).abs()
        total = total + (terms.mean() if reduction == "mean" else terms.sum())
    return total


def matching_loss(
    prediction: Tensor, target: Tensor, weights: Tensor, sigma: float = 0.1, gamma: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """L1 and edges of every channel in one pass, the gradient with them (eq. 3, 6).

    Value and gradient are those of `l1.mean() + gamma * edge_loss()` per channel, weighted; a few rows at a time go
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
        # channels side by side, as the product that made the prediction left them
        rows = rearrange(prediction, "b c h w -> b h w c").contiguous()
        targets = rearrange(target, "b c h w -> b h w c")
        fit = prediction.new_zeros(channels, dtype=torch.float32)
        edges = torch.zeros_like(fit)
        grad = torch.empty_like(rows) if ctx.needs_input_grad[0] else None
        size = height if prediction.is_cuda else max(1, _CHUNK // (width * channels))
        pixels = batch * height * width
        # differences an axis has: one less than its pixels
        counts = (max(1, batch * height * (width - 1)), max(1, batch * (height - 1) * width))
        share = weights / pixels
        for b in range(batch):
            above = None  # what the last chunk leaves for the first row of this one
            for start in range(0, height, size):
                stop = min(start + size, height)
                # and the first row of the next chunk, for the differences to it
                p, t = rows[b, start : stop + 1], targets[b, start : stop + 1].contiguous()
                off = p[: stop - start] - t[: stop - start]
                fit += torch.linalg.vector_norm(off, 1, (0, 1)) / pixels
                g = off.sign_()
                if gamma:
                    above = _edges(p, t, edges, g, above, counts, gamma * pixels, sigma)
                if grad is not None:
                    torch.mul(g, share, out=grad[b, start:stop])
        total = (weights * (fit + gamma * edges)).sum()
        if grad is not None:
            ctx.save_for_backward(rearrange(grad, "b h w c -> b c h w"))
        ctx.mark_non_differentiable(fit, edges)
        return total, fit, edges

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None, None, None]:
        (grad,) = ctx.saved_tensors
        return grad * grads[0], None, None, None, None


def _edges(
    prediction: Tensor,
    target: Tensor,
    sums: Tensor,
    grad: Tensor,
    above: Tensor | None,
    counts: tuple[int, int],
    factor: float,
    sigma: float,
) -> Tensor | None:
    """Add both axes' terms [m] to `sums` and factor times their gradient to `grad` [rows, W, m].

    prediction, target: [rows, W, m], or with the row below. Returns the pull on that row.
    """
    rows = len(grad)
    if prediction.shape[1] > 1:
        p, t = prediction[:rows], target[:rows]
        pull = _pull(p[:, 1:] - p[:, :-1], t[:, 1:] - t[:, :-1], sums, counts[0], sigma)
        grad[:, 1:].add_(pull, alpha=factor / counts[0])
        grad[:, :-1].sub_(pull, alpha=factor / counts[0])
    if above is not None:
        grad[0].add_(above, alpha=factor / counts[1])
    if len(prediction) == 1:
        return None
    pull = _pull(prediction[1:] - prediction[:-1], target[1:] - target[:-1], sums, counts[1], sigma)
    grad[: len(pull)].sub_(pull, alpha=factor / counts[1])
    grad[1:].add_(pull[: rows - 1], alpha=factor / counts[1])
    return pull[-1] if len(prediction) > rows else None


def _pull(change: Tensor, target_change: Tensor, sums: Tensor, count: int, sigma: float) -> Tensor:
    """Derivative of weight * | |change| - |wanted| | by the change; both arguments are used up."""
    excess = change.abs().sub_(target_change.abs_())
    weight = target_change.mul_(-1 / sigma).expm1_().neg_()
    change.mul_(excess).sign_().mul_(weight)
    sums += torch.linalg.vector_norm(excess.mul_(weight), 1, (0, 1)) / count
    return change
