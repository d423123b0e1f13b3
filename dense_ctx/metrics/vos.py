"""Region similarity J and contour accuracy F of video object segmentation (Perazzi et al., CVPR 2016).

The same numbers as the DAVIS 2017 evaluator's, from masks packed 64 pixels to a word: a dilation is a handful of shifts
and ORs over a few thousand words, a count is one popcount.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..errors import InputError

Mask = np.ndarray[Any, np.dtype[np.bool_]]
Words = np.ndarray[Any, np.dtype[np.uint64]]
Array = np.ndarray[Any, np.dtype[np.float64]]

TOLERANCE = 0.008  # of the image diagonal: how far boundaries may be apart


def jaccard(truth: Mask, prediction: Mask, void: Mask | None = None) -> Array:
    """J: intersection over union of masks [..., H, W], float64 [...]; 1 where both are empty.

    Args:
        void: pixels that do not count, [..., H, W].

    Raises:
        InputError: different shapes.
    """
    _same(truth, prediction, void)
    truth_words, predicted_words, _ = _packed(truth, prediction, void)
    return _jaccard(truth_words, predicted_words)


def boundary_f(truth: Mask, prediction: Mask, void: Mask | None = None, tolerance: float = TOLERANCE) -> Array:
    """F: harmonic mean of the precision and recall of the masks' boundaries, float64 [...].

    A boundary pixel counts as found if the other boundary passes within `tolerance`. F is 1 where neither mask has a
    boundary, 0 where one has none.

    Args:
        truth, prediction: [..., H, W].
        void: pixels that do not count.
        tolerance: in pixels if at least 1, else a share of the image diagonal (rounded up to pixels).

    Raises:
        InputError: different shapes.
    """
    _same(truth, prediction, void)
    truth_words, predicted_words, _ = _packed(truth, prediction, void)
    height, width = truth.shape[-2:]
    return _boundary_f(truth_words, predicted_words, width, _radius(tolerance, height, width))


def object_scores(truth: np.ndarray[Any, Any], prediction: np.ndarray[Any, Any], objects: int) -> tuple[Array, Array]:
    """J and F of each object of a frame: two float64 [objects].

    Args:
        truth, prediction: object ids [H, W], 0 is the background; 255 in the truth is void.
        objects: ids 1..objects are scored.

    Raises:
        InputError: different shapes.
    """
    void = truth == 255
    _same(truth, prediction, None)
    ids = np.arange(1, objects + 1, dtype=np.int64)[:, None, None]
    packed = _packed(truth[None] == ids, prediction[None] == ids, void if bool(void.any()) else None)
    height, width = truth.shape
    radius = _radius(TOLERANCE, height, width)
    return _jaccard(*packed[:2]), _boundary_f(*packed[:2], width, radius)


def statistics(values: Array) -> tuple[float, float, float]:
    """Mean, recall and decay of one object's values over its frames, as the DAVIS evaluator takes them.

    Mean leaves NaN out; recall is the share of frames above 0.5 (a NaN frame is none); decay is the mean of the first
    quarter less that of the last. Quarters share their end points.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise InputError(f"Statistics are of the values of at least one frame, [frames]; got {list(values.shape)}")
    # the official evaluator keeps the bounds in 8 bits, so they wrap beyond 256 frames; ours do not
    bounds = np.round(np.linspace(1, len(values), 5) + 1e-10).astype(int) - 1
    first, last = values[bounds[0] : bounds[1] + 1], values[bounds[3] : bounds[4] + 1]
    return _nanmean(values), float(np.mean(values > 0.5)), _nanmean(first) - _nanmean(last)


def _nanmean(values: Array) -> float:
    valid = values[~np.isnan(values)]
    return float(valid.mean()) if len(valid) else math.nan


def _same(truth: np.ndarray[Any, Any], prediction: np.ndarray[Any, Any], void: Mask | None) -> None:
    if truth.shape != prediction.shape or truth.ndim < 2:
        raise InputError(f"Truth {list(truth.shape)} and prediction {list(prediction.shape)} must be [..., H, W] alike")
    if void is not None and void.shape[-2:] != truth.shape[-2:]:
        raise InputError(f"void is {list(void.shape)}; the masks are {list(truth.shape)}")


def _radius(tolerance: float, height: int, width: int) -> int:
    return int(tolerance if tolerance >= 1 else math.ceil(tolerance * math.hypot(height, width)))


def _pack(masks: Mask) -> Words:
    """[..., H, W] bool -> [..., H, words], pixel x in bit x % 64 of word x // 64."""
    packed = np.packbits(masks, axis=-1, bitorder="little")
    spare = -packed.shape[-1] % 8
    if spare:
        packed = np.concatenate([packed, np.zeros((*packed.shape[:-1], spare), np.uint8)], axis=-1)
    return np.ascontiguousarray(packed).view("<u8")


def _packed(truth: Mask, prediction: Mask, void: Mask | None) -> tuple[Words, Words, Words | None]:
    first, second = _pack(truth), _pack(prediction)
    if void is None:
        return first, second, None
    out = _pack(void)
    return first & ~out, second & ~out, out


if hasattr(np, "bitwise_count"):

    def _count(words: Words) -> np.ndarray[Any, Any]:
        counts: np.ndarray[Any, Any] = np.bitwise_count(words).sum((-1, -2), dtype=np.int64)
        return counts

else:  # NumPy 1
    _BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1).astype(np.uint8)

    def _count(words: Words) -> np.ndarray[Any, Any]:
        counts: np.ndarray[Any, Any] = _BITS[words.view(np.uint8)].sum((-1, -2), dtype=np.int64)
        return counts


def _jaccard(truth: Words, prediction: Words) -> Array:
    both, either = _count(truth & prediction), _count(truth | prediction)
    return np.where(either == 0, 1.0, both / np.maximum(either, 1))


def _right(words: Words, step: int) -> Words:
    """Every pixel's right neighbour at distance `step` (up to 63); beyond the border is empty."""
    shifted = words >> np.uint64(step)
    shifted[..., :-1] |= words[..., 1:] << np.uint64(64 - step)
    return shifted


def _left(words: Words, step: int) -> Words:
    shifted = words << np.uint64(step)
    shifted[..., 1:] |= words[..., :-1] >> np.uint64(64 - step)
    return shifted


def _boundary(words: Words, width: int) -> Words:
    """Pixels that differ from their right, lower or lower-right neighbour.

    In the last row only the right one counts, in the last column only the lower one, in the corner none.
    """
    last = np.zeros(words.shape[-1], np.uint64)
    last[(width - 1) // 64] = np.uint64(1) << np.uint64((width - 1) % 64)
    right = _right(words, 1)
    edges = words ^ right
    below = words[..., :-1, :] ^ words[..., 1:, :]
    edges[..., :-1, :] |= below | (words[..., :-1, :] ^ right[..., 1:, :])
    edges &= ~last
    edges[..., :-1, :] |= below & last
    return edges


def _dilated(words: Words, radius: int, width: int) -> Words:
    """Dilation by the disk x^2 + y^2 <= radius^2."""
    result = words.copy()
    wide, reach = words, 0  # the horizontal dilation by `reach`
    for x in range(radius + 1):
        if x > reach:
            wide = wide | _right(words, x) | _left(words, x) if x < 64 else wide | _far(words, x, width)
            reach = x
        # rows whose half-width is exactly x: y from there to the next narrower one
        top = math.isqrt(radius * radius - x * x)
        bottom = math.isqrt(radius * radius - (x + 1) ** 2) + 1 if x < radius else 0
        for y in range(bottom, top + 1):
            if y == 0:
                result |= wide
            elif y < words.shape[-2]:
                result[..., y:, :] |= wide[..., :-y, :]
                result[..., :-y, :] |= wide[..., y:, :]
    return result


def _far(words: Words, step: int, width: int) -> Words:
    """Both neighbours at a distance of a word or more."""
    whole, rest = divmod(step, 64)
    result = np.zeros_like(words)
    if whole < words.shape[-1]:
        result[..., : words.shape[-1] - whole] |= words[..., whole:]
        right = _right(result, rest) if rest else result
        result = np.zeros_like(words)
        result[..., whole:] |= words[..., : words.shape[-1] - whole]
        return right | (_left(result, rest) if rest else result)
    return result


def _boundary_f(truth: Words, prediction: Words, width: int, radius: int) -> Array:
    true_edge, edge = _boundary(truth, width), _boundary(prediction, width)
    true_count, count = _count(true_edge), _count(edge)
    matched = _count(edge & _dilated(true_edge, radius, width))
    recalled = _count(true_edge & _dilated(edge, radius, width))
    precision = np.where(count == 0, 1.0, matched / np.maximum(count, 1))
    recall = np.where(true_count == 0, 1.0, recalled / np.maximum(true_count, 1))
    # one boundary empty: the other side's share is 0 already, for nothing of it is near an empty set
    total = precision + recall
    return np.where(total == 0, 0.0, 2 * precision * recall / np.where(total == 0, 1.0, total))
