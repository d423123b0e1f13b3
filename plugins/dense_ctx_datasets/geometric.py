"""Geometry of data sets: camera intrinsics, normals computed from depth, signs of axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dense_ctx.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

Intrinsics = tuple[float, float, float, float]  # fx, fy, cx, cy in pixels


def normals_of(depth: Tensor, intrinsics: Intrinsics) -> Tensor:
    """Normals [3, H, W] of depth [1, H, W] in metres; see `normals_from_depth`."""
    from .normals_from_depth import normals_from_depth

    return normals_from_depth(depth, intrinsics)


def signed(signs: Sequence[float] | str, name: str) -> tuple[float, ...]:
    """Parse three signs, given as numbers or as text such as "+--".

    Raises:
        InputError: anything else.
    """
    values = tuple({"+": 1.0, "-": -1.0}.get(one, 0.0) if isinstance(one, str) else float(one) for one in signs)
    if len(values) != 3 or any(abs(value) != 1 for value in values):
        raise InputError(f'{name}: signs are three of + and - for x, y, z, such as "+--"; got {signs!r}')
    return values
