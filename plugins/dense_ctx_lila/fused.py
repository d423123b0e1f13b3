"""Launches of the Triton kernels, and whether they are to be used: on CUDA, unless DENSE_CTX_TRITON=0 says otherwise.

No kernel of this package has run on a GPU yet: on the CPU Triton's interpreter compares them with the eager form, and
`usable` compares them again on each device before their first use.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from dense_ctx.errors import ConfigError, cause_of

if TYPE_CHECKING:
    from types import ModuleType

SWITCH = "DENSE_CTX_TRITON"
DEVICES = ("cuda",)
LIMIT = 1e-2  # of a kernel's error, beside the largest value: TF32's, and far below that of a mistake
TILE = {"ROWS": 8, "COLUMNS": 16, "BLOCK": 32, "DEPTH": 32}
_SPLITS = 4  # of the tiles of an image, for the gradient of the weights
_WIDEST, _WIDE = 256, 128  # features of a program: where a block may have 160 KB of shared memory, and elsewhere

Check: TypeAlias = "Callable[[torch.device, str, int, torch.dtype], float]"


def usable(error: Check, *tensors: Tensor, products: str = "float32") -> bool:
    """Whether a kernel is used for these tensors, of which the first has the features last.

    Before the first use on a device, at a width and a type of the features, which make a kernel of their own, `error`
    of it against the eager form decides, on a small block; where the two differ, or Triton is missing or fails (a GPU
    with too little shared memory), a warning says so and the eager form computes everything.

    Raises:
        ConfigError: DENSE_CTX_TRITON is neither 0 nor 1.
    """
    wish = os.environ.get(SWITCH, "1")
    if wish not in ("0", "1"):
        raise ConfigError(f"{SWITCH}={wish!r}: 0 leaves the Triton kernels out, 1 (the default) uses them on CUDA")
    plain = all(type(each) is Tensor and each.dtype != torch.float64 for each in tensors)
    if wish == "0" or tensors[0].device.type not in DEVICES or not plain:
        return False
    return _agrees(error, tensors[0].device, products, _block(tensors[0].shape[-1], _WIDEST), tensors[0].dtype)


def _block(width: int, most: int) -> int:
    """Features of a program, of `width`: a power of two."""
    return min(most, max(16, 1 << (width - 1).bit_length()))


@functools.cache
def _widest(device: torch.device) -> int:
    if device.type != "cuda":
        return _WIDEST
    room = getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", 0)
    return _WIDEST if room >= 160 * 1024 else _WIDE


@functools.cache
def _agrees(error: Check, device: torch.device, products: str, width: int, dtype: torch.dtype) -> bool:
    try:
        difference = error(device, products, width, dtype)
        if difference < LIMIT:
            return True
        reason = f"on a small block they differ from PyTorch's result by {difference:.0e} of its largest value"
    except Exception as fault:  # a compiler, a driver, a GPU that Triton does not know
        reason = cause_of(fault)
    warnings.warn(f"The Triton kernels of LILA are not used on {device}, which takes longer: {reason}", stacklevel=2)
    return False


# ---------------------------------------------------------------------- the loss


def matching(
    pixels: Tensor, weights: Tensor, bias: Tensor, parts: tuple[Tensor, ...], shares: Tensor,
    edges: tuple[float, float], products: str, gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """What `matching_op` computes, by kernels."""
    from . import triton_loss as kernels
    from .losses import gradient_type

    batch, height, width, dim = pixels.shape
    channels, (sigma, gamma) = weights.shape[-1], edges
    tensors = [each.contiguous() for each in (pixels, weights, bias, *parts)]
    count = batch * height * width
    along, down = max(1, batch * height * (width - 1)), max(1, batch * (height - 1) * width)
    tiles = -(-height // (TILE["ROWS"] - 2)) * -(-width // (TILE["COLUMNS"] - 2))
    features = _block(dim, _widest(pixels.device))
    blocks = -(-dim // features)
    options = {**TILE, "DIM": features, "PRECISION": _precision(kernels, products), **launch_options()}
    sizes = (height, width, dim, parts[1].shape[1], channels, parts[1].shape[2])
    terms = (gamma * count / along, gamma * count / down, sigma)
    scale = shares / count
    sums = weights.new_empty(batch, tiles, 3, channels)
    d_pixels = pixels.new_empty(pixels.shape if gradient else 0, dtype=gradient_type(pixels))
    kernels.by_pixel[(tiles, batch, blocks if gradient else 1)](
        *tensors, tensors[1] * scale, d_pixels, sums, *sizes, *terms, GRADIENT=gradient, **options
    )
    fit, rows, columns = sums.sum((0, 1))
    each = (rows / along + columns / down) * bool(gamma)
    fit = fit / count
    total = (shares * (fit + gamma * each)).sum()
    if not gradient:
        return total, fit, each, d_pixels, weights.new_empty(0), bias.new_empty(0)
    d_weights, d_bias = weights.new_empty(_SPLITS, *weights.shape), bias.new_empty(_SPLITS, *bias.shape)
    kernels.by_weight[(blocks * -(-channels // TILE["BLOCK"]), batch, _SPLITS)](
        *tensors, d_weights, d_bias, *sizes, *terms, tiles, **options
    )
    return total, fit, each, d_pixels, d_weights.sum(0) * scale, d_bias.sum(0) * scale


def launch_options() -> dict[str, int]:
    """Of the loss's kernels. Left to itself, ptxas spills 60 KB a thread to fit float32 products into 32 registers."""
    return {"num_warps": 8} | ({"maxnreg": 255} if torch.version.cuda else {})  # ROCm's compiler has no such option


def _precision(kernels: ModuleType, products: str) -> str:
    interpreted = (
        "Interpreted" in type(kernels.by_pixel).__name__
    )  # the interpreter multiplies in float32, and knows no more
    return "ieee" if products == "float32" or interpreted else products


def matching_error(device: torch.device, products: str, width: int, dtype: torch.dtype) -> float:
    """Of `matching` on a small block of noise with `width` features, beside the largest value of each result."""
    from .losses import Sums

    draw = torch.Generator().manual_seed(0)
    shapes = [(2, 9, 17, width), (2, width, 37), (2, 37), (2, 9, 17, 7), (2, 7, 35), (2, 35), (2, 9, 17, 2), (37,)]
    pixels, weights, bias, *parts, shares = (torch.randn(shape, generator=draw).to(device) for shape in shapes)
    weights = weights.mT.contiguous().mT  # as a solver leaves them
    args = (pixels.to(dtype), weights, bias, (parts[0], parts[1], parts[2], parts[3]), shares, (0.5, 0.7), products,
             True)  # fmt: skip
    return _largest(matching(*args), Sums(*args).results)


# ---------------------------------------------------------------------- PAMR


def stencil(rows: Tensor, weights: Tensor, dilations: list[int], count: int) -> Tensor:
    """`count` iterations of PAMR: rows [B, H, W, C] and weights [B, near, H, W], both contiguous; `rows` stays."""
    from . import triton_stencil as kernels

    batch, height, width, channels = rows.shape
    block = _block(channels, 64)
    grid = (-(-channels // block) * -(-height * width // 64), 1, batch)  # CUDA has 65,535 blocks in a second dimension
    source, target, spare = rows, torch.empty_like(rows), torch.empty_like(rows) if count > 1 else rows
    for _ in range(count):
        kernels.iterate[grid](source, weights, target, height, width, channels, DILATIONS=tuple(dilations),
                              COUNT=len(dilations), PIXELS=64, BLOCK=block)  # fmt: skip
        source, target, spare = target, spare, target
    return source


def stencil_error(device: torch.device, products: str, width: int, dtype: torch.dtype) -> float:
    """Of `stencil`, as `matching_error`."""
    from .spreading import sparse

    draw = torch.Generator().manual_seed(0)
    rows, weights = (torch.rand(shape, generator=draw).to(device, dtype) for shape in ((2, 7, 9, width), (2, 24, 7, 9)))
    arguments = (rows, weights / weights.sum(1, keepdim=True), [1, 3, 5], 3)
    return _largest([stencil(*arguments)], [sparse(*arguments)])


def _largest(ones: Any, others: Any) -> float:
    """The largest difference, beside the largest value of the second; NaN counts as infinite."""
    errors = [float((one - two).abs().max() / two.abs().max()) for one, two in zip(ones, others, strict=True)]
    return max(errors, key=lambda error: float("inf") if error != error else error)
