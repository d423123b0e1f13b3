"""The joint batch of all processes: gather support features with gradients, draw the same distractors everywhere."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed

from dense_ctx.errors import InputError


def world() -> tuple[int, int]:
    """(rank, number of processes); (0, 1) if torch.distributed is not in use."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


class _Gather(torch.autograd.Function):
    """Concatenate the tensors of all processes along the first axis; the backward pass sums their gradients."""

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        ctx.rank, ctx.length = distributed.get_rank(), len(local)
        parts = [torch.empty_like(local) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, local.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        summed = gradients[0].contiguous().clone()
        distributed.all_reduce(summed)
        return summed[ctx.rank * ctx.length : (ctx.rank + 1) * ctx.length]


def gather(local: Tensor) -> Tensor:
    """Gather [B, ...] of every process to [processes x B, ...] in order of rank; differentiable.

    The shape must be the same in every process, and every process must run the backward pass.
    """
    return local if world()[1] == 1 else _Gather.apply(local)


def host_gather(numbers: Tensor, device: torch.device) -> Tensor:
    """`gather` numbers of the host, to the host: without a wait for the device where the group has a backend for it."""
    return gather(numbers.to(device) if world()[1] > 1 and distributed.get_backend() == "nccl" else numbers).cpu()


def total(value: Tensor) -> Tensor:
    """Sum a number over all processes, without gradient."""
    summed = value.detach().clone()
    if world()[1] > 1:
        distributed.all_reduce(summed)
    return summed


def draw_distractors(batch: int, count: int, generator: torch.Generator, official: bool = False) -> Tensor:
    """Draw permutations of the joint batch, int64 [count, batch]: row i is the i-th distractor of each sample.

    No sample is mapped to itself. The distractors of a sample differ if the batch is large enough; in a batch of at
    most `count` images each other image occurs several times (as with the official batch of four).

    Args:
        official: independent random permutations, which may map a sample to itself (the published code).

    Raises:
        InputError: the batch has one sample, which leaves no distractor.
    """
    if official:
        rows = [torch.randperm(batch, generator=generator) for _ in range(count)]
        return torch.stack(rows) if rows else torch.empty(0, batch, dtype=torch.int64)
    if count and batch < 2:
        raise InputError(
            f"distractors={count} are drawn from the rest of the batch, and the joint batch of all processes has "
            f"{batch} sample(s): raise batch_size (or lower accumulate), or set distractors=0"
        )
    order = torch.randperm(batch, generator=generator)
    position = order.argsort()
    shifts: list[int] = []
    while len(shifts) < count:  # use every other sample once before any is repeated
        shifts += (torch.randperm(batch - 1, generator=generator) + 1).tolist()
    rows = [order[(position + shift) % batch] for shift in shifts[:count]]
    return torch.stack(rows) if rows else torch.empty(0, batch, dtype=torch.int64)
