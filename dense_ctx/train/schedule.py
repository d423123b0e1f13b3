"""The learning-rate schedule as a function of the step: it has no state to save."""

from __future__ import annotations

import math

from .config import Schedule


def factor(schedule: Schedule, step: int, steps: int) -> float:
    """The factor on the learning rate at step `step` of `steps`, counted from 0.

    Warm-up increases linearly from 1/warmup at step 0 to 1 at step warmup - 1. The cosine then decreases from 1 to
    `floor`, which it would reach at step `steps` (Loshchilov and Hutter 2017, without restarts).
    """
    if step < schedule.warmup:
        return (step + 1) / schedule.warmup
    if schedule.name == "constant":
        return 1.0
    progress = (step - schedule.warmup) / max(steps - schedule.warmup, 1)
    return schedule.floor + (1 - schedule.floor) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
