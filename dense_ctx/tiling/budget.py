"""Choose window sizes whose forward stays within a memory budget."""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from ..errors import InputError, MemoryBudgetError, shortened
from ..images import padded_size
from ..interfaces import Size
from .footprint import forward_bytes
from .windows import Axis, Plan

if TYPE_CHECKING:
    from ..model import DenseModel

_UNITS = {"": 1, "B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_MEMORY = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")

# Beside the tensors of a forward: work space of kernels, and memory freed that the allocator has not given back
_SHARE, _BESIDE = 1.3, 64_000_000
_forwards: WeakKeyDictionary[DenseModel, dict[object, float]] = WeakKeyDictionary()


def parse_memory(amount: str | int) -> int:
    """Bytes of "2GB", "500 MB", "1.5GiB" or a number.

    Raises:
        InputError: not a size, or below one byte.
    """
    if isinstance(amount, str):
        match = _MEMORY.fullmatch(amount)
        if match is None or match[2].upper() not in _UNITS:
            raise InputError(
                f'max_memory={shortened(repr(amount), 80)} is not a size such as "2GB", "500MB" or "1.5GiB"'
            )
        amount = int(float(match[1]) * _UNITS[match[2].upper()])
    if amount < 1:
        raise InputError(f"max_memory={amount} bytes is not above 0")
    return amount


def split_budget(amount: str | int) -> tuple[int, bool]:
    """Bytes, and whether a difference to the untiled result is accepted: "2GB approximate"."""
    if isinstance(amount, str) and amount.rstrip().endswith(" approximate"):
        return parse_memory(amount.rstrip().removesuffix(" approximate")), True
    return parse_memory(amount), False


def _window_bytes(model: DenseModel, batch: int, window: Size, size: Size, channels: int) -> float:
    """Estimate the bytes that a window's forward and a function of its features with `channels` channels need."""
    cached = _forwards.setdefault(model, {})
    key = (batch, window, size, model.dtype, model.device)
    if key not in cached:
        try:
            live = forward_bytes(model, batch, window, size)
        except Exception as error:
            warnings.warn(
                f"The memory of {type(model.backbone).__name__} cannot be determined in advance "
                f"({type(error).__name__}); 400 numbers per pixel are assumed, and max_memory is not guaranteed",
                stacklevel=2,
            )
            live = 4 * batch * (window[0] * window[1] * 400 + 3 * model.dim * size[0] * size[1])
        cached[key] = live
    read = 4.0 * batch * size[0] * size[1] * (2 * model.dim + 4 * channels)
    most = max(cached[key], read)
    return _SHARE * most + min(_BESIDE, most / 2)


def plan(
    model: DenseModel,
    image_size: Size,
    max_memory: str | int,
    channels: int = 0,
    *,
    batch: int = 1,
    size: Size | None = None,
) -> Plan:
    """Windows whose forward stays within `max_memory`, beside the images and an output of `channels` at `size`.

    Args:
        image_size: (H, W). batch: images at once.
        channels: of the result, held for the whole of the images; 0: none is held.
        size: (h, w) of the result; default the images'.

    Raises:
        MemoryBudgetError: the smallest useful window does not fit; the message has the least that does.
    """
    budget, _ = split_budget(max_memory)
    stride, whole = model.backbone.stride, size or image_size

    def needed(side: int) -> float:
        window = (min(side, padded[0]), min(side, padded[1]))
        rows, columns = (max(1, round(a * b / c)) for a, b, c in zip(window, whole, image_size, strict=True))
        return _window_bytes(model, batch, window, (rows, columns), channels)

    padded = padded_size(image_size, stride)
    pictures = 12.0 * batch * image_size[0] * image_size[1]
    most = max(padded)
    if needed(most) + pictures <= budget:
        return overlapping(image_size, most, stride, 4, True)  # one window
    held = pictures + batch * whole[0] * whole[1] * 4.0 * (channels + 2 * bool(channels))
    least = 4 * stride
    if held + needed(least) > budget:
        raise MemoryBudgetError(
            f"max_memory={budget / 1e9:.3g} GB is not enough for {batch} x {image_size[0]} x {image_size[1]} pixels: "
            f"the images and the result take {held / 1e9:.3g} GB and the smallest window ({least} pixels) "
            f"{needed(least) / 1e9:.3g} GB. Ask for {(held + needed(least)) * 1.001 / 1e9:.3g} GB or a smaller `size`, "
            "or write the features to a file: dense_ctx_predict.feature_files.write_features"
        )
    low, high = least // stride, most // stride  # in strides; the largest that fits, halving the range
    while low < high - 1:
        middle = (low + high) // 2
        low, high = (middle, high) if held + needed(middle * stride) <= budget else (low, middle)
    return overlapping(image_size, low * stride, stride, 4, True)


def overlapping(image_size: Size, room: int, stride: int, share: int, blend: bool) -> Plan:
    """Windows of `room` pixels that overlap by a `share`-th."""
    overlap = max(stride, room // share // stride * stride)
    rows, columns = (Axis.plan(length, room, overlap, stride, blend) for length in image_size)
    return Plan(rows, columns)
