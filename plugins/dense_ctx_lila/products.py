"""Matrix products of float32 numbers in the ways that a GPU has, with the same roundings on every device."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Products = Literal["float32", "tf32", "bf16x3"]


def multiply(left: Tensor, right: Tensor, products: str = "float32", out: Tensor | None = None) -> Tensor:
    """The product of [..., n, k] and [..., k, m], float32 or, where `products` is "float32", of any type.

    Differentiable, as if factors were not rounded.

    Args:
        products: "float32"; "tf32": of factors rounded to 10 bits behind the point; "bf16x3": of factors that are each
            the sum of two bfloat16 numbers, without the product of the two small ones. Sums are float32 in all.
        out: where to write it.
    """
    if products == "float32":
        return torch.matmul(left, right, out=out)
    if products == "tf32":
        return torch.matmul(_tf32(left), _tf32(right), out=out)
    (high, low), (other_high, other_low) = _halves(left), _halves(right)
    product = (low @ other_high).add_(high @ other_low).add_(high @ other_high)  # the small terms first
    return product if out is None else out.copy_(product)


def _tf32(x: Tensor) -> Tensor:
    """Rounded to 10 bits behind the point, halves away from zero, as the tensor cores' conversion does.

    The rounding is a difference that is added, exactly: bits have no gradient, and of NaN they may make a number.
    """
    rounded = ((x.detach().contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)
    return x + (rounded - x.detach())


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    high = x.bfloat16().float()
    return high, (x - high).bfloat16().float()
