"""Region similarity J and contour accuracy F of video object segmentation (Perazzi et al., CVPR 2016).

Equal to the DAVIS 2017 evaluator's values, computed on masks packed 64 pixels to a word: a dilation is a few shifts and
ORs, a count is a popcount.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dense_ctx.errors import InputError

Mask = np.ndarray[Any, np.dtype[np.bool_]]
Bits = np.ndarray[Any, np.dtype[np.uint64]]
Array = np.ndarray[Any, np.dtype[np.float64]]

TOLERANCE = 0.008  # largest distance of matching boundary pixels, as a share of the image diagonal


def jaccard(truth: Mask, prediction: Mask, void: Mask | None = None) -> Array:
    """J: intersection over union of masks [..., H, W], float64 [...]; 1 where both are empty.

    Args:
        void: pixels that do not count, [..., H, W].

    Raises:
        InputError: different shapes.
    """
    _check_shapes(truth, prediction, void)
    return _jaccard(*_pack_pair(truth, prediction, void))


def boundary_f(truth: Mask, prediction: Mask, void: Mask | None = None, tolerance: float = TOLERANCE) -> Array:
    """F: harmonic mean of the precision and recall of the masks' boundaries, float64 [...].

    A boundary pixel is a hit if the other boundary passes within `tolerance`. F is 1 where neither mask has a
    boundary, 0 where one has none.

    Args:
        truth, prediction: [..., H, W].
        void: pixels that do not count.
        tolerance: in pixels if at least 1, else a share of the image diagonal (rounded up to pixels).

    Raises:
        InputError: different shapes.
    """
    _check_shapes(truth, prediction, void)
    height, width = truth.shape[-2:]
    return _boundary_f(*_pack_pair(truth, prediction, void), width, _radius(tolerance, height, width))


def object_scores(truth: np.ndarray[Any, Any], prediction: np.ndarray[Any, Any], objects: int) -> tuple[Array, Array]:
    """J and F of each object of a frame: two float64 [objects].

    Args:
        truth, prediction: object ids [H, W], 0 is the background; 255 in the truth is void.
        objects: ids 1..objects are scored.

    Raises:
        InputError: different shapes.
    """
    void = truth == 255
    _check_shapes(truth, prediction, None)
    ids = np.arange(1, objects + 1, dtype=np.int64)[:, None, None]
    pair = _pack_pair(_one_hot(truth, ids), _one_hot(prediction, ids), void if bool(void.any()) else None)
    height, width = truth.shape
    return _jaccard(*pair), _boundary_f(*pair, width, _radius(TOLERANCE, height, width))


def statistics(values: Array) -> tuple[float, float, float]:
    """Mean, recall and decay of one object's values [frames], as in the DAVIS evaluator.

    The mean ignores NaN; recall is the share of frames above 0.5 (NaN is not); decay is the mean of the first quarter
    minus that of the last. Quarters share their end points.

    Raises:
        InputError: no frame, or not one-dimensional.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise InputError(f"Expected the values of at least one frame, [frames]; got {list(values.shape)}")
    # the official evaluator stores the bounds in 8 bits, which overflow beyond 256 frames; ours do not
    bounds = np.round(np.linspace(1, len(values), 5) + 1e-10).astype(int) - 1
    first, last = values[bounds[0] : bounds[1] + 1], values[bounds[3] : bounds[4] + 1]
    return _nanmean(values), float(np.mean(values > 0.5)), _nanmean(first) - _nanmean(last)


def _nanmean(values: Array) -> float:
    valid = values[~np.isnan(values)]
    return float(valid.mean()) if len(valid) else math.nan


def _check_shapes(truth: np.ndarray[Any, Any], prediction: np.ndarray[Any, Any], void: Mask | None) -> None:
    if truth.shape != prediction.shape or truth.ndim < 2:
        raise InputError(
            f"Truth {list(truth.shape)} and prediction {list(prediction.shape)}: expected equal [..., H, W]"
        )
    if void is not None and void.shape[-2:] != truth.shape[-2:]:
        raise InputError(f"void is {list(void.shape)}; the masks are {list(truth.shape)}")


def _radius(tolerance: float, height: int, width: int) -> int:
    return int(tolerance if tolerance >= 1 else math.ceil(tolerance * math.hypot(height, width)))


def _pack(masks: Mask) -> Bits:
    """[..., H, W] bool -> [..., H, words], pixel x in bit x % 64 of word x // 64."""
    octets = np.packbits(masks, axis=-1, bitorder="little")
    padding = -octets.shape[-1] % 8
    if padding:
        octets = np.concatenate([octets, np.zeros((*octets.shape[:-1], padding), np.uint8)], axis=-1)
    return np.ascontiguousarray(octets).view("<u8")


def _one_hot(labels: Mask, ids: np.ndarray[Any, Any]) -> Mask:
    """Masks [N, H, W] of the ids [N, 1, 1]."""
    # comparing in the labels' own dtype, where it holds all ids, is several times faster for 8 bits
    dtype: np.dtype[Any] = labels.dtype
    own = dtype.kind in "iu" and len(ids) <= np.iinfo(dtype).max
    mask: Mask = labels[None] == (ids.astype(dtype) if own else ids)
    return mask


def _pack_pair(truth: Mask, prediction: Mask, void: Mask | None) -> tuple[Bits, Bits]:
    """Both packed, without the void pixels."""
    pair = _pack(truth), _pack(prediction)
    if void is None:
        return pair
    scored = ~_pack(void)
    return pair[0] & scored, pair[1] & scored


_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1)


def _count(bits: Bits) -> np.ndarray[Any, Any]:
    # of octets where NumPy is 1
    counts = np.bitwise_count(bits) if hasattr(np, "bitwise_count") else _BITS[bits.view(np.uint8)]
    return counts.sum((-1, -2), dtype=np.int64)  # type: ignore[no-any-return]


def _jaccard(truth: Bits, prediction: Bits) -> Array:
    both, either = _count(truth & prediction), _count(truth | prediction)
    return np.where(either == 0, 1.0, both / np.maximum(either, 1))


def _right_neighbour(bits: Bits, step: int) -> Bits:
    """Every pixel's right neighbour at distance `step`; beyond the border is empty."""
    whole, rest = divmod(step, 64)
    if whole:
        source, bits = bits, np.zeros_like(bits)
        bits[..., :-whole] = source[..., whole:]
    if not rest:
        return bits
    neighbour = bits >> np.uint64(rest)
    neighbour[..., :-1] |= bits[..., 1:] << np.uint64(64 - rest)
    return neighbour


def _left_neighbour(bits: Bits, step: int) -> Bits:
    """Every pixel's left neighbour."""
    whole, rest = divmod(step, 64)
    if whole:
        source, bits = bits, np.zeros_like(bits)
        bits[..., whole:] = source[..., :-whole]
    if not rest:
        return bits
    neighbour = bits << np.uint64(rest)
    neighbour[..., 1:] |= bits[..., :-1] >> np.uint64(64 - rest)
    return neighbour


def _boundary(bits: Bits, width: int) -> Bits:
    """Pixels that differ from their right, lower or lower-right neighbour.

    In the last row only the right one counts, in the last column only the lower one, in the corner none.
    """
    last = np.zeros(bits.shape[-1], np.uint64)
    last[(width - 1) // 64] = np.uint64(1) << np.uint64((width - 1) % 64)
    right = _right_neighbour(bits, 1)
    edges = bits ^ right
    below = bits[..., :-1, :] ^ bits[..., 1:, :]
    edges[..., :-1, :] |= below | (bits[..., :-1, :] ^ right[..., 1:, :])
    edges &= ~last
    edges[..., :-1, :] |= below & last
    return edges


def _dilation(bits: Bits, radius: int) -> Bits:
    """Dilation by the disk x^2 + y^2 <= radius^2."""
    result = bits.copy()
    row = bits  # the horizontal dilation by x
    for x in range(radius + 1):
        if x:
            row = row | _right_neighbour(bits, x) | _left_neighbour(bits, x)
        # rows whose half-width is exactly x: y from there to the next narrower one
        top = math.isqrt(radius * radius - x * x)
        bottom = math.isqrt(radius * radius - (x + 1) ** 2) + 1 if x < radius else 0
        for y in range(bottom, top + 1):
            if y == 0:
                result |= row
            elif y < bits.shape[-2]:
                result[..., y:, :] |= row[..., :-y, :]
                result[..., :-y, :] |= row[..., y:, :]
    return result


def _crop(truth: Bits, prediction: Bits, width: int) -> tuple[Bits, Bits, int]:
    """Both cropped to the pixels set in either, with an empty row and column where the image continues; and the width.

    Boundaries and their distances lie within.
    """
    used = truth | prediction
    used = np.bitwise_or.reduce(used.reshape(-1, *used.shape[-2:]), axis=0)
    rows, words = np.flatnonzero(used.any(1)), np.flatnonzero(used.any(0))
    if not len(rows):
        return truth[..., :1, :1], prediction[..., :1, :1], min(width, 64)
    top, bottom = max(0, rows[0] - 1), min(used.shape[0], rows[-1] + 2)
    # a boundary may lie in the column before the first one, a border's own rule in the last column
    left, right = max(0, words[0] - 1), min(used.shape[1], words[-1] + 2)
    crop = (..., slice(top, bottom), slice(left, right))
    return truth[crop], prediction[crop], min(width, 64 * int(right)) - 64 * int(left)


def _boundary_f(truth: Bits, prediction: Bits, width: int, radius: int) -> Array:
    truth, prediction, width = _crop(truth, prediction, width)
    true_edge, edge = _boundary(truth, width), _boundary(prediction, width)
    true_count, count = _count(true_edge), _count(edge)
    hits = _count(edge & _dilation(true_edge, radius))
    true_hits = _count(true_edge & _dilation(edge, radius))
    precision = np.where(count == 0, 1.0, hits / np.maximum(count, 1))
    recall = np.where(true_count == 0, 1.0, true_hits / np.maximum(true_count, 1))
    # if one boundary is empty, the other side's share is 0 already: no pixel is near an empty set
    total = precision + recall
    return 2 * precision * recall / np.where(total == 0, 1.0, total)
