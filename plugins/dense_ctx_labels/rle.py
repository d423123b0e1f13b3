"""Run-length masks: COCO's in column order, as numbers or compressed text; CVAT's in row order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dense_ctx.errors import FileError
from dense_ctx.interfaces import Size

from .raster import Mask

_OFFSET, _BITS, _MORE, _SIGN = 48, 5, 0x20, 0x10


def runs(flat: Mask) -> list[int]:
    """Lengths of the alternating runs of a mask [N]; the first is of False and may be 0."""
    edges = np.flatnonzero(np.diff(flat, prepend=False))
    lengths: list[int] = np.diff(edges, prepend=0, append=flat.size).tolist()
    return lengths


def mask_of_runs(lengths: Sequence[Any], size: Size, columns: bool) -> Mask:
    """Decode runs to a mask [H, W], in column or row order.

    Raises:
        FileError: a run is negative or not an integer, or the runs do not sum to H x W.
    """
    if not all(isinstance(run, int) and not isinstance(run, bool) and run >= 0 for run in lengths):
        raise FileError("its run lengths are not whole numbers of at least 0")
    total = sum(lengths)
    if total != size[0] * size[1]:
        raise FileError(f"its run lengths fill {total:,} pixels of {size[0]} x {size[1]} = {size[0] * size[1]:,}")
    values = np.arange(len(lengths)) % 2 == 1
    flat = np.repeat(values, np.array(lengths, dtype=np.int64))
    mask: Mask = flat.reshape(size[::-1]).T if columns else flat.reshape(size)
    return mask


def compressed(lengths: Sequence[int]) -> str:
    """Encode run lengths as pycocotools does: differences to the run before the last, in groups of five bits."""
    letters = []
    for index, run in enumerate(lengths):
        rest, more = run - lengths[index - 2] if index > 2 else run, True
        while more:
            group, rest = rest & (_MORE - 1), rest >> _BITS
            more = rest != (-1 if group & _SIGN else 0)
            letters.append(chr(_OFFSET + (group | _MORE if more else group)))
    return "".join(letters)


def uncompressed(text: str) -> list[int]:
    """Decode COCO's compressed run lengths.

    Raises:
        FileError: invalid characters, a run above 2**60, or truncated text.
    """
    lengths: list[int] = []
    value = shift = 0
    for letter in text:
        code = ord(letter) - _OFFSET
        if not 0 <= code < 2 * _MORE or shift > 60:
            raise FileError(f"its run lengths are not in COCO's compressed form: {letter!r}")
        value |= (code & (_MORE - 1)) << shift
        shift += _BITS
        if not code & _MORE:
            if code & _SIGN:
                value -= 1 << shift
            lengths.append(value + lengths[-2] if len(lengths) > 2 else value)
            value = shift = 0
    if shift:
        raise FileError("its run lengths are truncated")
    return lengths
