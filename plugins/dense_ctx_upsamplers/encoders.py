"""Layers of JAFAR, AnyUp and NAF: residual encoders, learned rotations, weights of attention."""

from __future__ import annotations

import torch
from dense_ctx_dpt.strips import by_rows
from torch import Tensor, nn
from torch.nn import functional

from dense_ctx.errors import InputError

from .base import reflected, require_heads
from .blocks import rows_of

GROUPS = 8


class ReflectConv(nn.Conv2d):
    """A convolution that keeps the size, its input continued by reflection."""

    def __init__(self, channels: int, width: int, kernel: int, bias: bool) -> None:
        super().__init__(channels, width, kernel, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, h, w] to [B, width, h, w]."""
        cells = self.kernel_size[0] // 2
        return super().forward(reflected(x, cells) if cells else x)


class Block(nn.Module):
    """conv(silu(norm(conv(silu(norm(x)))))), plus x where `residual`."""

    def __init__(self, width: int, kernel: int, bias: bool, residual: bool) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, width)
        self.conv1 = ReflectConv(width, width, kernel, bias)
        self.norm2 = nn.GroupNorm(GROUPS, width)
        self.conv2 = ReflectConv(width, width, kernel, bias)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, h, w] to the same."""
        y: Tensor = self.conv1(functional.silu(self.norm1(x)))
        y = self.conv2(functional.silu(self.norm2(y)))
        return x + y if self.residual else y


def encoder(
    channels: int, width: int, kernel: int = 1, inner: int = 1, bias: bool = False, residual: bool = True
) -> nn.Sequential:
    """A convolution and two blocks; `kernel` is the first one's, `inner` the blocks'."""
    first = ReflectConv(channels, width, kernel, bias)
    return nn.Sequential(first, *(Block(width, inner, bias, residual) for _ in range(2)))


def require_width(width: int) -> None:
    """Raise InputError unless groups and rotations fit."""
    if width < GROUPS or width % GROUPS:
        raise InputError(f"width={width}: expected a multiple of {GROUPS}, which the normalisation's groups divide")


class Rotation(nn.Module):
    """Positions as angles: x cos(a) + turn(x) sin(a), where a is linear in the row and in the column (both 0 to 1).

    The frequencies are learned, so that the halves that `turn` exchanges need not have the same angle. They start as
    powers of 1/100, the rows' in the first half of the channels and the columns' in the second.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        powers = (100.0 ** torch.linspace(0, -1, width // 4)).repeat(2)
        self.freqs = nn.Parameter(2 * torch.pi * torch.block_diag(powers, powers))

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, h, w] to the same; angles are in float32 whatever the type of x is."""
        height, width = x.shape[-2:]
        down = torch.linspace(0, 1, height, device=x.device)[None, :, None]
        right = torch.linspace(0, 1, width, device=x.device)[None, None]
        of_rows, of_columns = self.freqs.float()[:, :, None, None]

        def turned(start: int, stop: int) -> Tensor:
            angles: Tensor = of_rows * down[:, start:stop] + of_columns * right
            part = x[:, :, start:stop]
            one, two = part.chunk(2, 1)
            return part * angles.cos().to(x.dtype) + torch.cat([-two, one], 1) * angles.sin().to(x.dtype)

        return by_rows(turned, height, rows_of(x[:, :, 0].numel()))


class Attention(nn.Module):
    """Queries and keys of the attention whose weights are applied to the backbone's map as it is.

    The published layers also have a projection of values and one of the output, which nothing that comes out depends
    on; here they do not exist.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        require_heads(heads, width, "the queries")
        self.heads = heads
        self.conv2d = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm_q = nn.RMSNorm(width)
        self.norm_k = nn.RMSNorm(width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)

    def forward(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """[B, width, H, W] and [B, width, h, w] to [B, heads, width / heads, H, W] and [B, heads, ..., h, w]."""
        query = self.query(self.norm_q(self.conv2d(query).movedim(1, -1)))
        key = self.key(self.norm_k(key.movedim(1, -1)))
        return in_heads(query, self.heads), in_heads(key, self.heads)


def in_heads(x: Tensor, heads: int) -> Tensor:
    """[B, h, w, heads x d] to [B, heads, d, h, w]."""
    split: Tensor = x.movedim(-1, 1).unflatten(1, (heads, -1))
    return split
