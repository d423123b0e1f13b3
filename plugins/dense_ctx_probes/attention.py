"""Attention probe: learned queries gather class (or bin) prototypes from the image."""

from __future__ import annotations

from typing import Any

from torch import nn

from dense_ctx.errors import InputError
from dense_ctx.interfaces import Task

from .gradient import GradientProbe
from .heads import AttentionSum


class AttentionProbe(GradientProbe):
    """LILA's segmentation probe: attention logits of the decoder plus linear logits of the encoder.

    Args:
        task: see `dense_ctx.Probe`. For depth give `bins`: one query each.
        heads: of the attention; the largest number up to it that divides the channels.
        downscale: keys and values are taken from a map smaller by this factor.
        with_norm: LayerNorms, as in FlowFeat's probe.
        **options: of `GradientProbe`.
    """

    def __init__(
        self, task: Task = "segmentation", heads: int = 8, downscale: int = 4, with_norm: bool = True, **options: Any
    ) -> None:
        super().__init__(task, **options)
        if heads < 1 or downscale < 1:
            raise InputError(f"heads={heads}, downscale={downscale}: both at least 1")
        self.heads, self.downscale, self.with_norm = heads, downscale, with_norm

    def build(self, dims: tuple[int, int], outputs: int) -> nn.Module:
        """An `AttentionSum`."""
        return AttentionSum(dims, outputs, self.reads, self.heads, self.downscale, self.with_norm)
