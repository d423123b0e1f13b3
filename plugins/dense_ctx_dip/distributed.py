"""The joint batch of all processes: supports gathered with their gradients, distractors drawn alike everywhere."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed

from dense_ctx.errors import InputError


def world() -> tuple[int, int]:
    """(rank, processes); (0, 1) where torch.distributed is not in use."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


class _Gather(torch.autograd.Function):
    """Concatenate a tensor of each process along its first axis; gradients of all processes come back, summed."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor) -> Tensor:
        ctx.rank, ctx.length = distributed.get_rank(), len(mine)
        parts = [torch.empty_like(mine) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, mine.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        whole = gradients[0].contiguous().clone()
        distributed.all_reduce(whole)
        return whole[ctx.rank * ctx.length : (ctx.rank + 1) * ctx.length]


def gather(mine: Tensor) -> Tensor:
    """[B, ...] of every process, joined to [processes x B, ...] in order of rank; differentiable.

    Every process must bring the same shape, and must run backward through it.
    """
    return mine if world()[1] == 1 else _Gather.apply(mine)


def total(value: Tensor) -> Tensor:
    """Sum of a number over all processes, without gradient."""
    summed = value.detach().clone()
    if world()[1] > 1:
        distributed.all_reduce(summed)
    return summed


def draw_distractors(batch: int, count: int, generator: torch.Generator, official: bool = False) -> Tensor:
    """Permutations of the joint batch, int64 [count, batch]: row i names the i-th distractor of each sample.

    No sample is mapped to itself, and as long as the batch is large enough its distractors differ; in a batch of no
    more than `count` images each of the others serves several times (as with the official batch of four).

    Args:
        official: independent random permutations, which may map a sample to itself (the published code).

    Raises:
        InputError: a batch of one sample has no other to be its distractor.
    """
    if official:
        rows = [torch.randperm(batch, generator=generator) for _ in range(count)]
        return torch.stack(rows) if rows else torch.empty(0, batch, dtype=torch.int64)
    if count and batch < 2:
        raise InputError(
            f"distractors={count} are drawn from the rest of the batch, and the joint batch of all processes is of "
            f"{batch} sample(s): raise batch_size (or lower accumulate), or set distractors=0"
        )
    order = torch.randperm(batch, generator=generator)
    place = order.argsort()
    shifts: list[int] = []
    while len(shifts) < count:  # every other sample once before one comes again
        shifts += (torch.randperm(batch - 1, generator=generator) + 1).tolist()
    rows = [order[(place + shift) % batch] for shift in shifts[:count]]
    return torch.stack(rows) if rows else torch.empty(0, batch, dtype=torch.int64)
