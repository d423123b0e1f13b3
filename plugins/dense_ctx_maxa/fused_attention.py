"""Attention with the Gaussian of eq. 3 for training: a few queries at a time, storing only the result.

The weights of all queries, images and heads at once are what the first layer's memory and time would go to: autograd
keeps them, and each operation passes through all of them in main memory. Here a part of them is made, used and
forgotten; the backward pass makes it again from the logarithm of each query's normaliser, as FlashAttention does (Dao
et al., 2022), and goes on to the sigmas and the numbers of the cells, which its kernels do not offer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .positions import squared_distances

CPU_BYTES, BYTES = 2_000_000, 64_000_000  # of attention weights at once: a core's cache; a kernel's worth


def gaussian(squared: Tensor, log_sigma: Tensor) -> Tensor:
    """Normal density [heads, Q, K] of squared distances [Q, K] for log sigmas [heads] or [1]."""
    sigma = log_sigma.exp()[:, None, None]
    return torch.exp(-squared / (2 * sigma.square())) / (sigma * math.sqrt(2 * math.pi))


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    points: Tensor,
    cells: Tensor,
    log_sigma: Tensor | None,
    cell_bias: Tensor,
) -> Tensor:
    """Attention softmax(Q K / sqrt(d) + M) V with M = gaussian(|point - cell|) + cell_bias, in float32 inside.

    Args:
        query: [B or 1, heads, Q, d]; key, value: [B, heads, K, d].
        points, cells: where queries and keys are, [Q, 2] and [K, 2]; they have no gradient.
        log_sigma: [heads] or [1]; None: no Gaussian.
        cell_bias: [1, heads, 1, K].

    Returns:
        [B, heads, Q, d].
    """
    tensors = [x.float() for x in (query.expand(len(key), -1, -1, -1), key, value)]
    sigma = log_sigma.float() if log_sigma is not None else None
    with torch.autocast(query.device.type, enabled=False):
        every = (*tensors, points.float(), cells.float(), sigma, cell_bias.float())
        out: Tensor = _graph_forward(*every)[0] if torch.compiler.is_compiling() else _Attend.apply(*every)
    return out.to(value.dtype)


def _parts(query: Tensor, keys: int) -> Iterator[tuple[slice, slice]]:
    """(images, queries) whose weights fit together."""
    images, heads, queries = query.shape[:3]
    room = max(1, (CPU_BYTES if query.device.type == "cpu" else BYTES) // (4 * heads * keys))
    rows = min(queries, room)
    many = max(1, room // rows)
    for start in range(0, queries, rows):
        for first in range(0, images, many):
            yield slice(first, first + many), slice(start, start + rows)


def _forward(
    query: Tensor, key: Tensor, value: Tensor, points: Tensor, cells: Tensor, log_sigma: Tensor | None,
    cell_bias: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The result, and the logarithm of each query's normaliser [B, heads, Q]."""
    query = query * query.shape[-1] ** -0.5
    out, norm = torch.empty_like(query), query.new_empty(query.shape[:3])
    turned, rows, bias = key.transpose(-1, -2), None, cell_bias
    for images, part in _parts(query, key.shape[2]):
        if part != rows:
            rows, bias = part, cell_bias + _gaussian(points[part], cells, log_sigma)
        weights = (query[images, :, part] @ turned[images]).add_(bias)
        most = weights.amax(-1, keepdim=True)
        weights.sub_(most).exp_()
        total = weights.sum(-1, keepdim=True)
        out[images, :, part] = (weights @ value[images]).div_(total)
        norm[images, :, part] = total.log_().add_(most)[..., 0]
    return out, norm


def _backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, points: Tensor, cells: Tensor, log_sigma: Tensor | None,
    cell_bias: Tensor, out: Tensor, norm: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of query, key, value, cell bias and log sigmas (none of these: [0])."""
    query = query * query.shape[-1] ** -0.5
    mean = (grad * out).sum(-1, keepdim=True)
    d_query, d_key, d_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
    d_cells = torch.zeros_like(cell_bias)
    d_sigma = query.new_empty(0) if log_sigma is None else torch.zeros_like(log_sigma)
    turned, turned_value = key.transpose(-1, -2), value.transpose(-1, -2)
    rows, bias, logits_gradient = None, cell_bias, None  # the gradient is summed over the images so far
    for images, part in _parts(query, key.shape[2]):
        if part != rows:
            d_cells, d_sigma = _reached(logits_gradient, rows, points, cells, log_sigma, d_cells, d_sigma)
            rows, logits_gradient, bias = part, None, cell_bias + _gaussian(points[part], cells, log_sigma)
        some, gradient = query[images, :, part], grad[images, :, part]
        weights = (some @ turned[images]).add_(bias).sub_(norm[images, :, part, None]).exp_()
        d_value[images] += weights.transpose(-1, -2) @ gradient
        logits = (gradient @ turned_value[images]).sub_(mean[images, :, part]).mul_(weights)
        d_query[images, :, part] = logits @ key[images]
        d_key[images] += logits.transpose(-1, -2) @ some
        summed = logits.sum(0) if len(logits) > 1 else logits[0]
        logits_gradient = summed if logits_gradient is None else logits_gradient.add_(summed)
    d_cells, d_sigma = _reached(logits_gradient, rows, points, cells, log_sigma, d_cells, d_sigma)
    return d_query.mul_(query.shape[-1] ** -0.5), d_key, d_value, d_cells, d_sigma


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        out, norm = _forward(*given)
        ctx.save_for_backward(*given, out, norm)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        *gradients, d_cells, d_sigma = _backward(grad, *ctx.saved_tensors)
        return *gradients, None, None, d_sigma if len(d_sigma) else None, d_cells


# a graph that is compiled would unroll the loops: to it each is one operation
_graph_forward = torch.library.custom_op("dense_ctx_maxa::attend", _forward, mutates_args=())
_graph_backward = torch.library.custom_op("dense_ctx_maxa::attend_backward", _backward, mutates_args=())


@_graph_forward.register_fake
def _(query: Tensor, *given: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(query * 1), query.new_empty(query.shape[:3])  # of a product the strides are its own


@_graph_backward.register_fake
def _(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, points: Tensor, cells: Tensor, log_sigma: Tensor | None,
    cell_bias: Tensor, out: Tensor, norm: Tensor,
) -> tuple[Tensor, ...]:  # fmt: skip
    d_sigma = query.new_empty(0) if log_sigma is None else torch.empty_like(log_sigma)
    return (*(torch.empty_like(each) for each in (query * 1, key, value, cell_bias)), d_sigma)


def _graph_gradients(ctx: Any, grad: Tensor, _: Any) -> Any:
    *gradients, d_cells, d_sigma = _graph_backward(grad, *ctx.saved_tensors)
    return *gradients, None, None, None if ctx.saved_tensors[5] is None else d_sigma, d_cells


_graph_forward.register_autograd(
    _graph_gradients, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs, *output)
)


def _gaussian(points: Tensor, cells: Tensor, log_sigma: Tensor | None) -> Tensor | float:
    return 0.0 if log_sigma is None else gaussian(squared_distances(points, cells), log_sigma)


def _reached(
    logits_gradient: Tensor | None,
    rows: slice | None,
    points: Tensor,
    cells: Tensor,
    log_sigma: Tensor | None,
    d_cells: Tensor,
    d_sigma: Tensor,
) -> tuple[Tensor, Tensor]:
    """Add what the logits' gradient [heads, q, K] of some queries says of the cells' numbers and of log sigma."""
    if logits_gradient is None or rows is None:
        return d_cells, d_sigma
    d_cells = d_cells + logits_gradient.sum(1)[None, :, None]
    if log_sigma is not None:
        squared = squared_distances(points[rows], cells)
        # d/d log sigma of exp(-s / (2 sigma^2)) / sigma is itself times s / sigma^2 - 1
        steep = (squared / log_sigma.exp()[:, None, None].square()).sub_(1).mul_(gaussian(squared, log_sigma))
        each = (steep * logits_gradient).sum((1, 2))
        d_sigma = d_sigma + (each if len(log_sigma) == len(each) else each.sum()[None])
    return d_cells, d_sigma
