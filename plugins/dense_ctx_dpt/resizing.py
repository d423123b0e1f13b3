"""How the decoders resize maps. They call these by the module, so that an export can put its own in their place."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from dense_ctx.interfaces import Size, resample

from . import strips


def resize(x: Tensor, size: Size) -> Tensor:
    """Resize [B, C, h, w] to `size`: bilinear, antialiased when shrinking."""
    same = tuple(x.shape[-2:]) == size
    return resample(x, size) if same or _shrinks(x, size) or not strips.suit(x) else strips.enlarged(x, size)


def at_size(path: Tensor, size: Size) -> Tensor:
    """[B, C, h, w] at `size`; what is smaller holds means, so that no detail turns into noise."""
    shrink = path.shape[-2] / size[0], path.shape[-1] / size[1]
    if min(shrink) >= 2:  # a tenth of the time of the antialiased filter, and little else at this factor
        return functional.interpolate(path, size=size, mode="area")
    return resize(path, size)


def enlargeable(path: Tensor, size: Size) -> Tensor:
    """`at_size` where a side becomes shorter; else as it is, for `strips.enlarged_rows`."""
    return at_size(path, size) if _shrinks(path, size) else path


def _shrinks(x: Tensor, size: Size) -> bool:
    return x.shape[-2] > size[0] or x.shape[-1] > size[1]
