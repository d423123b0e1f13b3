"""Load images and masks from files, PIL images, arrays or tensors; normalise, pad and resize."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from .errors import InputError
from .gateway import gateway
from .interfaces import Size
from .numerics import holds
from .persistence import pixels

ImageLike: TypeAlias = "str | os.PathLike[str] | Image.Image | np.ndarray[Any, Any] | Tensor"

open_image, image_size = gateway(pixels.open_image), gateway(pixels.image_size)


@gateway
def load(image: ImageLike) -> Tensor:
    """Load one image as float32 [3, H, W] in [0, 1], RGB.

    Accepts a path, a PIL image, an array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] (uint8, uint16, or float in
    [0, 1]) or a tensor [3, H, W] or [1, H, W] (same dtypes). Grey is repeated to three channels; transparency is
    composited over white; 16-bit values are divided by 65535.

    Raises:
        FileError: the path cannot be read.
        InputError: another shape or dtype, values outside [0, 1], NaN or infinity.
    """
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] not in (1, 3):
            raise InputError(f"An image tensor is [3, H, W] (or [1, H, W]); got {list(image.shape)}")
        return check_batch(image[None])[0]
    return torch.from_numpy(pixels.read_pixels(image))


def check_batch(images: Tensor) -> Tensor:
    """Convert a batch [B, 3, H, W] or [B, 1, H, W] to floats [B, 3, H, W] in [0, 1]; errors as for `load`."""
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        hint = "; channels go first in tensors" if images.ndim == 4 and images.shape[3] in (1, 3) else ""
        raise InputError(f"A batch of images is [B, 3, H, W]; got {list(images.shape)}{hint}")
    if 0 in images.shape:
        raise InputError(f"An image has at least one pixel; got {list(images.shape)}")
    if images.dtype in (torch.uint8, torch.uint16):
        images = images.float() / (255 if images.dtype == torch.uint8 else 65535)
    elif not images.is_floating_point():
        raise InputError(f"An image tensor is uint8, uint16 or float in [0, 1]; got {images.dtype}")
    elif not holds((ends := torch.aminmax(images.detach())).min.ge(-1e-3) & ends.max.le(1 + 1e-3)):  # NaN is neither
        pixels.check_range(*map(float, ends))
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images


@gateway
def load_mask(mask: ImageLike, size: Size | None = None, name: str = "The mask") -> Tensor:
    """Load a label map as int64 [H, W]: the indices of palette and grey images, unscaled. name: for errors.

    Raises:
        FileError: the path cannot be read.
        InputError: an RGB mask, floats that are not whole numbers, or a size other than `size`.
    """
    if not isinstance(mask, Tensor):
        return torch.from_numpy(pixels.read_mask(mask, size, name))
    whole = not mask.is_floating_point() or bool((mask == mask.round()).all())
    return cast(Tensor, pixels.checked_mask(mask, whole, size, name)).long()


def prepare(
    images: Tensor, mean: Sequence[float], std: Sequence[float], stride: int, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Normalise [B, 3, H, W] and pad it at the bottom and right to multiples of `stride`, replicating the border.

    Pixel (0, 0) stays in place.
    """
    shift, scale = _constants(mean, images.device), _constants(std, images.device)
    images = ((images.float() - shift) / scale).to(dtype)
    height, width = padded_size((images.shape[-2], images.shape[-1]), stride)
    extra = (0, width - images.shape[-1], 0, height - images.shape[-2])
    return functional.pad(images, extra, mode="replicate") if any(extra) else images


def to_device(images: Tensor, device: torch.device) -> Tensor:
    """`images` on `device`; from the host to CUDA by way of pinned memory, so that the host need not wait for it."""
    pinned = device.type == "cuda" and images.device.type == "cpu" and not images.requires_grad
    return (images.pin_memory() if pinned else images).to(device, non_blocking=True)


def _constants(values: Sequence[float], device: torch.device) -> Tensor:
    """Of each channel, [3, 1, 1]."""
    if torch.compiler.is_compiling():  # a constant of the host's in a graph is no part of a CUDA graph
        each = [torch.full((1, 1), value, device=device, dtype=torch.float32) for value in values]
        return torch.stack(each)
    return torch.tensor(values, device=device, dtype=torch.float32)[:, None, None]


def padded_size(size: Size, stride: int) -> Size:
    """H and W rounded up to multiples of `stride`."""
    return -(-size[0] // stride) * stride, -(-size[1] // stride) * stride


def resized(image: Tensor, size: Size) -> Tensor:
    """Resize [3, H, W] to `size`: bilinear, antialiased, clamped to [0, 1]."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    small = functional.interpolate(image[None], size=size, mode="bilinear", align_corners=False, antialias=True)[0]
    return small.clamp(0, 1)


def nearest(target: Tensor, size: Size) -> Tensor:
    """Resize a target [H, W] or [K, H, W] to `size` by nearest neighbour: the value under each new pixel's centre."""
    height, width = target.shape[-2:]
    if (height, width) == tuple(size):
        return target
    rows = ((torch.arange(size[0], device=target.device) + 0.5) * height / size[0]).long()
    columns = ((torch.arange(size[1], device=target.device) + 0.5) * width / size[1]).long()
    return target[..., rows, :][..., columns]
