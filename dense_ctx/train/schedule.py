"""The learning rate as a function of the step, so that there is no scheduler whose state could be lost."""

from __future__ import annotations

import math

from .config import Schedule


def factor(schedule: Schedule, step: int, steps: int) -> float:
    """What lr is multiplied by at step `step` of `steps`, counted from 0.

    Warm-up rises linearly, 1/warmup at the first step and 1 at number `warmup`. The cosine then falls from 1 to
    `floor`, which it would reach at step `steps` (Loshchilov and Hutter 2017, without restarts).
    """
    if step < schedule.warmup:
        return (step + 1) / schedule.warmup
    if schedule.name == "constant":
        return 1.0
    done = (step - schedule.warmup) / max(steps - schedule.warmup, 1)
    return schedule.floor + (1 - schedule.floor) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
