"""Cue maps refined in the loop: moved towards what features of both frames predict alike."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .regression import Regression
from .targets import Targets


@torch.no_grad()
def refined(
    regression: Regression, frames: tuple[Tensor, Tensor], cues: tuple[Targets, Targets], count: int, share: float
) -> tuple[Targets, Targets]:
    """Both frames' cues, the last `count` channels moved towards the regression's prediction.

    Each pixel is predicted twice, with the coefficients of either frame. It moves towards the mean p of both, and the
    less the more they differ: g + share * exp(-|p1 - p2|) * (p - g), in standard deviations of the cue. What only one
    frame's regression explains is noise or holds there alone, and stays.

    Args:
        regression: as in the loss. frames: features of both, [B, D, H, W]. cues: of both, K channels.
        share: from 0 to 1.
    """
    plain = [one.apart(count)[1] for one in cues]
    fits = [regression.fit(x.float(), g.pixels(regression.stride)) for x, g in zip(frames, plain, strict=True)]
    moved = []
    for x, one, own in zip(frames, cues, plain, strict=True):
        first, second = (torch.einsum("bdhw,bdk->bhwk", x.float(), w) + b[:, None, None] for w, b in fits)
        agreement = torch.exp(-(first - second).abs())
        new = own.plain + share * agreement * ((first + second) / 2 - own.plain)
        moved.append(replace(one, plain=torch.cat([one.plain[..., : one.plain.shape[-1] - count], new], -1)))
    return moved[0], moved[1]
