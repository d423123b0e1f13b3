"""Label Studio's brush masks: bit-packed run-length encoding of RGBA values.

The format is that of @thi.ng/rle-pack. Header: the number of values (32 bits), the bits per value minus 1 (5 bits), and
for each of four length classes its bits minus 1 (4 bits each). Then runs: 1 bit, set if one value is repeated; the
length class (2 bits); the length minus 1; and the value, or that many values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dense_ctx.errors import FileError, InputError
from dense_ctx.interfaces import Size

from .raster import Mask

_WORD = 8
_CLASSES = (3, 4, 8, 16)  # bits of a length in each length class, as Label Studio writes them
_LONGEST = 1 << _CLASSES[-1]
_CHANNELS = 4


def mask_of_brush(data: Sequence[Any], size: Size) -> Mask:
    """Decode packed RGBA values to a mask [H, W], True where alpha is above 0.

    Raises:
        FileError: not bytes, truncated, or packed otherwise. InputError: it does not match the image's size.
    """
    if not all(isinstance(byte, int) and 0 <= byte < 256 for byte in data):
        raise FileError("its rle is not a list of bytes")
    bits = _Bits(bytes(data))
    count, word = bits.read(32), bits.read(5) + 1
    classes = [bits.read(4) + 1 for _ in range(4)]
    expected = size[0] * size[1] * _CHANNELS
    if count != expected:
        raise InputError(f"its rle has {count:,} values; an image of {size[0]} x {size[1]} (H x W) has {expected:,}")
    if word != _WORD:
        raise FileError(f"its rle has values of {word} bits; expected 8")
    values = np.empty(count, dtype=np.uint8)
    filled = 0
    while filled < count:
        repeated = bits.read(1)
        end = filled + bits.read(classes[bits.read(2)]) + 1
        if end > count:
            raise FileError(f"its rle runs beyond its {count:,} values")
        values[filled:end] = bits.read(_WORD) if repeated else bits.values(end - filled)
        filled = end
    mask: Mask = values.reshape(*size, _CHANNELS)[:, :, 3] > 0
    return mask


def brush_of_mask(mask: Mask) -> list[int]:
    """Encode a mask [H, W] as Label Studio's converter does: 255 in all four channels, or 0."""
    flat = mask.ravel()
    starts = np.flatnonzero(np.diff(flat, prepend=not flat[0]))
    lengths = np.diff(starts, append=flat.size) * _CHANNELS
    parts = [f"{flat.size * _CHANNELS:032b}{_WORD - 1:05b}", *(f"{size - 1:04b}" for size in _CLASSES)]
    for length, value in zip(lengths.tolist(), flat[starts].tolist(), strict=True):
        word = "1" * _WORD if value else "0" * _WORD
        while length:
            run = min(length, _LONGEST)
            kind = next(index for index, size in enumerate(_CLASSES) if run <= 1 << size)
            parts.append(f"1{kind:02b}{run - 1:0{_CLASSES[kind]}b}{word}")
            length -= run
    text = "".join(parts)
    text += "0" * (8 - len(text) % 8)  # the converter appends a whole byte if no padding is needed
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))


class _Bits:
    """Bit reader over bytes."""

    def __init__(self, data: bytes) -> None:
        self._text = format(int.from_bytes(data, "big"), f"0{8 * len(data)}b") if data else ""
        self._array = np.unpackbits(np.frombuffer(data, dtype=np.uint8))
        self._place = 0

    def _advance(self, count: int) -> slice:
        part = slice(self._place, self._place + count)
        if part.stop > len(self._text):
            raise FileError("its rle is cut short")
        self._place = part.stop
        return part

    def read(self, count: int) -> int:
        return int(self._text[self._advance(count)], 2)

    def values(self, count: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        return np.packbits(self._array[self._advance(_WORD * count)].reshape(count, _WORD), axis=1)[:, 0]
