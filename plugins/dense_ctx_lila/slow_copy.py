"""The EMA copy of the decoder, which computes the regression coefficients with context=ema."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from dense_ctx.errors import ConfigError


@dataclass(frozen=True)
class SlowCopy:
    """How the copy follows.

    momentum: of the copy's weights, from 0 to below 1. every: it moves after steps 1, 1 + every, 1 + 2 every ...
    ramp: after step n the momentum is at most 1 - (n - 1)^(-2/3): a copy of the first step, 0.999 after 31,600 steps.
        FlowFeat: every 5, with the ramp (ema-pytorch's defaults).

    Raises:
        ConfigError: out of range.
    """

    momentum: float = 0.999
    every: int = 1
    ramp: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1 or self.every < 1:
            raise ConfigError(
                f"ema: momentum={self.momentum}, every={self.every}: expected from 0 to below 1, and from 1 up"
            )

    @torch.no_grad()
    def move(self, slow: nn.Module, fast: nn.Module, step: int) -> None:
        """Move `slow` after optimiser step `step`, counted from 1."""
        before = step - 1
        if before % self.every:
            return
        momentum = self.momentum
        if self.ramp:
            momentum = min(momentum, 1 - before ** (-2 / 3)) if before else 0.0
        for old, new in zip(slow.parameters(), fast.parameters(), strict=True):
            old.lerp_(new, 1 - momentum)
        for name, buffer in slow.named_buffers():  # BatchNorm's statistics are means already
            buffer.copy_(fast.get_buffer(name))
