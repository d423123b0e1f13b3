"""Paired differences of two methods on the same scenes, with 95 % intervals by the bootstrap (Efron 1979)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

SAMPLES = 10_000
_ROWS = 500  # samples that are drawn at once
_ENDS = (2.5, 97.5)  # per cent


class Difference(NamedTuple):
    """A mean of paired differences, and the ends of its 95 % interval; None: one scene and one seed have no spread."""

    mean: float
    low: float | None
    high: float | None
    scenes: int
    seeds: int

    def text(self, form: str = "+.4f") -> str:
        """ "+0.0312 (-0.0040 to +0.0711)"."""
        if self.low is None or self.high is None:
            return f"{self.mean:{form}}"
        return f"{self.mean:{form}} ({self.low:{form}} to {self.high:{form}})"


def paired(
    one: Mapping[str, Mapping[str, float]], other: Mapping[str, Mapping[str, float]], samples: int = SAMPLES
) -> Difference | None:
    """The mean over scenes and seeds of `one` minus `other`.

    Both are {scene: {seed: score}}. Pairs are of one scene and one seed, of the seeds that each has; where no seed is
    in both, of the scenes' means over seeds. A scene with an undefined score (NaN), or without one of its result's
    seeds, in either is left out.

    Returns:
        None where no scene is in both.
    """
    common = [name for name in one if name in other]
    own, others = (list(dict.fromkeys(seed for row in side.values() for seed in row)) for side in (one, other))
    if seeds := [seed for seed in own if seed in others]:
        rows = [[_of(one[name], seed) - _of(other[name], seed) for seed in seeds] for name in common]
    else:
        rows = [[_mean(one[name], own) - _mean(other[name], others)] for name in common]
    table = np.asarray([row for row in rows if np.isfinite(row).all()])
    return bootstrap(table, samples) if len(table) else None


def _of(scores: Mapping[str, float], seed: str) -> float:
    return scores.get(seed, math.nan)


def _mean(scores: Mapping[str, float], seeds: Sequence[str]) -> float:
    return float(np.mean([_of(scores, seed) for seed in seeds]))


def bootstrap(table: np.ndarray[tuple[int, int], np.dtype[np.float64]], samples: int = SAMPLES) -> Difference:
    """The mean of differences [scenes, seeds], and its interval: scenes and seeds are drawn anew, each by itself.

    The generator's seed is fixed: the same table gives the same interval.
    """
    scenes, seeds = table.shape
    if scenes * seeds == 1:
        return Difference(float(table.mean()), None, None, scenes, seeds)
    draw, means = np.random.default_rng(0), []
    for start in range(0, samples, _ROWS):
        count = min(_ROWS, samples - start)
        weights = [draw.multinomial(n, np.full(n, 1 / n), size=count) / n for n in (scenes, seeds)]
        means.append(((weights[0] @ table) * weights[1]).sum(1))
    low, high = np.percentile(np.concatenate(means), _ENDS)
    return Difference(float(table.mean()), float(low), float(high), scenes, seeds)


def of_scenes(differences: Sequence[float]) -> Difference:
    """As `bootstrap`, of one difference a scene."""
    return bootstrap(np.asarray(differences, dtype=np.float64)[:, None])
