"""Temporal consistency: does a point of the scene keep its feature from frame to frame?"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dense_ctx.errors import InputError
from dense_ctx.gateway import gateway
from dense_ctx.images import ImageLike
from dense_ctx.interfaces import Size

from .flow import FlowFunction, Flows, PrecomputedFlow, dis_flow
from .similarity import Centre, Model, PairSums, check_size, choose_points, extract, read_image, resize, sample, scaled


@dataclass(frozen=True)
class TemporalSetting:
    """The result for one scale and gap.

    size: (H, W) of the frames that the model was given.
    consistency: (cos_flow - cos_random) / (1 - cos_random); NaN if undefined, for the reason in `reason`.
    drop: 1 - consistency / consistency at the first scale and gap; NaN if that is not above 0.
    valid: share of the sampled pixels that stay in the frame and pass the forward-backward check.
    n, pairs: pixels and frame pairs compared.
    """

    scale: float
    gap: int
    size: Size
    consistency: float
    drop: float
    cos_flow: float
    cos_random: float
    valid: float
    n: int
    pairs: int
    reason: str | None = None


@dataclass(frozen=True)
class TemporalConsistency:
    """Temporal consistency for each scale and gap, scales outermost; threshold in pixels; frames of the clip."""

    settings: tuple[TemporalSetting, ...]
    threshold: float
    frames: int

    def at(self, scale: float, gap: int) -> TemporalSetting:
        """The setting of a scale and gap.

        Raises:
            InputError: it was not measured.
        """
        for setting in self.settings:
            if setting.scale == scale and setting.gap == gap:
                return setting
        measured = ", ".join(f"({s.scale:g}, {s.gap})" for s in self.settings)
        raise InputError(f"Scale {scale:g} with gap {gap} was not measured; (scale, gap): {measured}")


@dataclass(frozen=True)
class _Past:
    """A previous frame: its image, the sampled pixels [N, 2], and their features [N, D] at each scale."""

    image: Tensor
    xy: Tensor
    rows: dict[float, Tensor]


@gateway
def temporal_consistency(
    model: Model,
    frames: Iterable[ImageLike],
    *,
    flow: FlowFunction | PrecomputedFlow = dis_flow,
    backward: PrecomputedFlow | None = None,
    scales: Sequence[float] = (1.0, 0.5),
    gaps: Sequence[int] = (1, 2, 5, 10),
    threshold: float = 1.0,
    points: int | None = 16384,
    seed: int = 0,
) -> TemporalConsistency:
    """Cosine of features along optical flow, against random pairs of the same two frames (docs/measures.md).

    Frames are read once, one at a time. Memory holds the full features of one frame at one scale, and those of `points`
    pixels of the last max(gaps) frames; it does not grow with the clip.

    Args:
        model: a DenseModel, or model(images [1, 3, h, w], size=(H, W)) whose result has `.pixels` [1, D, H, W].
        frames: images of one size: a Video, a list, a tensor [T, 3, H, W].
        flow: flow(first, second) -> [2, H, W] of frames [3, H, W], called in both directions; or precomputed flow:
            [2, H, W] for every pair of frames or [pairs, 2, H, W] (pair t is frames t and t + gap), for a single gap
            or in a mapping from gap to array. NaN: unknown.
        backward: the backward flow that belongs to precomputed flow; without it there is no backward check.
        scales: sizes of the frames that the model is given, relative to the originals. Features are always computed at
            the original H x W, so that every scale is measured on the same pixels.
        gaps: distances between the frames of a pair.
        threshold: pixels; a pixel x is valid if |f(x) + b(x + f(x))| is below it.
        points: pixels sampled in each frame, without replacement; None: all of them.
        seed: of the sample.

    Raises:
        InputError: the clip is not longer than the largest gap, frames differ in size or are below 8 pixels, flow has
            another shape, features hold NaN, or a setting is out of range.
        MissingDependencyError: the default flow needs OpenCV, which is not installed.
    """
    _check_settings(scales, gaps, threshold, points)
    if isinstance(frames, (Sequence, Tensor, np.ndarray)):  # the length of a Video is an estimate
        _check_length(len(frames), gaps)
    flows = Flows(flow, backward, gaps, threshold)
    generator = torch.Generator().manual_seed(seed)
    sums = {(scale, gap): PairSums() for scale in scales for gap in gaps}
    sampled, passed = dict.fromkeys(gaps, 0), dict.fromkeys(gaps, 0)
    centres: dict[float, Centre] = {}
    history: deque[_Past] = deque(maxlen=max(gaps))
    size, count = (0, 0), 0
    for index, frame in enumerate(frames):
        name, count = f"frame {index}", index + 1
        image = read_image(frame, name)
        if index == 0:
            size = (image.shape[-2], image.shape[-1])
        if (image.shape[-2], image.shape[-1]) != size:
            raise InputError(f"Frames of one clip have one size (H, W); got {size}, then {tuple(image.shape[-2:])}")
        matches: dict[int, tuple[_Past, Tensor, Tensor]] = {}
        for gap in gaps:
            if gap > index:
                continue
            past = history[-gap]
            target, valid = flows.follow(past.xy, past.image, image, index - gap, gap)
            matches[gap] = past, target[valid], valid
            sampled[gap] += len(valid)
            passed[gap] += int(valid.sum())
        xy = choose_points(size, points, generator)
        rows = {}
        for scale in scales:
            small = scaled(size, scale)
            check_size(small, f"{name} at scale {scale:g}")
            pixels = extract(model, resize(image, small), size, name)
            if index == 0:
                centres[scale] = Centre.of(pixels)
            for gap, (past, target, valid) in matches.items():
                if not centres[scale].constant:
                    before = past.rows[scale][valid.to(pixels.device)]
                    sums[scale, gap].add(before, sample(pixels, target), centres[scale])
            rows[scale] = sample(pixels, xy)
        history.append(_Past(image, xy, rows))
    _check_length(count, gaps)

    settings: list[TemporalSetting] = []
    for scale in scales:
        constant = centres[scale].constant
        empty = "the features of the first frame are constant" if constant else "no pixel passed the checks"
        for gap in gaps:
            total = sums[scale, gap]
            score = total.score(empty)
            first = settings[0].consistency if settings else score.value
            settings.append(
                TemporalSetting(
                    scale=scale,
                    gap=gap,
                    size=scaled(size, scale),
                    consistency=score.value,
                    drop=1 - score.value / first if first > 0 else math.nan,
                    cos_flow=score.cos,
                    cos_random=score.cos_random,
                    valid=passed[gap] / sampled[gap],
                    n=total.n,
                    pairs=total.groups,
                    reason=score.reason,
                )
            )
    return TemporalConsistency(tuple(settings), threshold, count)


def _check_settings(scales: Sequence[float], gaps: Sequence[int], threshold: float, points: int | None) -> None:
    if not scales or not all(0 < scale < math.inf for scale in scales) or len(set(scales)) < len(scales):
        raise InputError(f"scales={list(scales)} are different numbers above 0, at least one")
    if not gaps or not all(isinstance(gap, int) and gap >= 1 for gap in gaps) or len(set(gaps)) < len(gaps):
        raise InputError(f"gaps={list(gaps)} are different whole numbers of at least 1, at least one")
    if not threshold > 0:
        raise InputError(f"threshold={threshold} pixels is not above 0")
    if points is not None and points < 2:
        raise InputError(f"points={points}: at least 2, or None for all")


def _check_length(count: int, gaps: Sequence[int]) -> None:
    if count <= max(gaps):
        raise InputError(
            f"The clip has {count} frame{'s' * (count != 1)}; gap {max(gaps)} needs at least {max(gaps) + 1}. "
            "Give a longer clip, or smaller gaps"
        )
