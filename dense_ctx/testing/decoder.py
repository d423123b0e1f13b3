"""check_decoder: the clauses of `dense_ctx.Decoder`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..interfaces import Decoder, Features
from ..persistence.file_args import file_args_problem
from .capabilities import check_initialise, check_layers, check_shift
from .common import Clauses, check_bfloat16, decoder_inputs, difference, factory, finite, noise

PLAIN = ((8, 8, 8, 8), (14, 14, 14, 14))  # dims and strides of a ViT's four maps
PYRAMID = ((4, 6, 8, 10), (4, 8, 16, 32))  # of a hierarchical model's
SIZES = ((33, 47), (50, 20), (7, 5))  # what is asked for: larger and smaller than the grids, H != W


def check_decoder(
    decoder: str | Callable[..., Decoder],
    *,
    args: dict[str, Any] | None = None,
    pyramids: Sequence[tuple[Sequence[int], Sequence[int]]] = (PLAIN, PYRAMID),
    tolerance: float = 1e-5,
) -> tuple[str, ...]:
    """Verify a decoder on several kinds of backbone.

    Args:
        decoder: a registered name, or a class or function called with dims= and strides=.
        args: further constructor arguments.
        pyramids: (dims, strides) of the backbones it must fit; default a plain ViT and a hierarchical model.
        tolerance: largest relative difference between an image decoded alone and in a batch.

    Returns:
        The clauses verified: construction, shapes, finite, input, batch, size, layers, gradients, state_dict,
        initialise and shift (they work, or return False and do nothing), and bfloat16 where PyTorch has the kernels.

    Raises:
        ContractError: a clause is broken.
    """
    build = factory("decoder", decoder, args or {})
    check = Clauses("decoder", decoder)
    for dims, strides in pyramids:
        with check.clause("construction") as require:
            part = build(dims=tuple(dims), strides=tuple(strides))
            require((fault := file_args_problem(type(part))) is None, fault or "")
            require(isinstance(part, Decoder), f"gave a {type(part).__name__}, not a Decoder")
            require(isinstance(part.dim, int) and part.dim > 0, f"dim is {part.dim!r}, not a channel count")
        part.eval()
        _values(check, part, dims, strides, tolerance)
        check_layers(check, part, dims, strides)
        _gradients(check, part, dims, strides)
        _state(check, part, build(dims=tuple(dims), strides=tuple(strides)), dims, strides)
        check_initialise(check, build(dims=tuple(dims), strides=tuple(strides)).eval(), dims, strides)
        check_shift(check, build(dims=tuple(dims), strides=tuple(strides)).eval(), dims, strides)
        _bfloat16(check, build(dims=tuple(dims), strides=tuple(strides)), dims, strides)
    return tuple(check.done)


def _row(features: Features, row: int) -> Features:
    cls = None if features.cls is None else features.cls[row : row + 1]
    return Features(tuple(m[row : row + 1] for m in features.maps), cls, features.image_size)


@torch.no_grad()
def _values(check: Clauses, decoder: Decoder, dims: Sequence[int], strides: Sequence[int], tolerance: float) -> None:
    features, images = decoder_inputs(dims, strides)
    before = [m.clone() for m in (*features.maps, images)]
    with check.clause("shapes"):
        for size in (features.image_size, *SIZES):
            decoder(features, images, size)  # which compares its shape
    first = decoder(features, images, SIZES[0])
    with check.clause("finite") as require:
        require(finite(first), "the output has NaN or infinity for ordinary noise")
    with check.clause("input") as require:
        same = all(torch.equal(a, b) for a, b in zip((*features.maps, images), before, strict=True))
        require(same, "forward changes its input in place")
    with check.clause("batch") as require:
        for row in range(2):
            alone = decoder(_row(features, row), images[row : row + 1], SIZES[0])
            gap = difference(alone, first[row : row + 1])
            require(gap <= tolerance, f"an image alone and in a batch differ by {gap:.1e} relative")
    with check.clause("size") as require:
        decoder(*decoder_inputs(dims, strides, grid=(5, 2)), SIZES[1])
        again = decoder(features, images, SIZES[0])
        require(difference(again, first) <= 1e-6, "the result depends on the sizes that went before")


def _gradients(check: Clauses, decoder: Decoder, dims: Sequence[int], strides: Sequence[int]) -> None:
    features, images = decoder_inputs(dims, strides)
    for item in features.maps:
        item.requires_grad_(True)
    decoder.train()
    with check.clause("gradients") as require:
        out = decoder(features, images, SIZES[0])
        require(out.requires_grad, "forward cuts gradients off")
        (out * noise(*out.shape, seed=7)).sum().backward()
        reached = [m.grad for m in features.maps if m.grad is not None]
        require(any(bool(g.any()) for g in reached), "no gradient reaches the backbone's maps")
        trained = {n: p.grad for n, p in decoder.named_parameters() if p.requires_grad}
        missed = [name for name, grad in trained.items() if grad is None]
        require(not missed, f"no gradient reaches {', '.join(missed)}: unused parameters stop distributed training")
        grads = [g for g in trained.values() if g is not None]
        require(not grads or any(bool(g.any()) for g in grads), "every parameter's gradient is zero")
        require(all(finite(g) for g in grads), "a gradient has NaN or infinity")
    decoder.zero_grad()
    decoder.eval()


@torch.no_grad()
def _state(check: Clauses, decoder: Decoder, other: Decoder, dims: Sequence[int], strides: Sequence[int]) -> None:
    features, images = decoder_inputs(dims, strides)
    with check.clause("state_dict") as require:
        for parameter in other.parameters():
            parameter.add_(1.0)
        other.load_state_dict(decoder.state_dict(), strict=True)
        gap = difference(other.eval()(features, images, SIZES[0]), decoder(features, images, SIZES[0]))
        require(gap <= 1e-6, "weights are kept outside state_dict()")


def _bfloat16(check: Clauses, decoder: Decoder, dims: Sequence[int], strides: Sequence[int]) -> None:
    features, images = decoder_inputs(dims, strides, dtype=torch.bfloat16)
    check_bfloat16(check, lambda: [decoder.to(torch.bfloat16).eval()(features, images, SIZES[0])])
