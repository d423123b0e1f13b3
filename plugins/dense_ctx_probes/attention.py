"""Attention probe: learned queries gather class (or bin) prototypes from the image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from dense_ctx.errors import InputError, refuse_idle
from dense_ctx.interfaces import Task

from .gradient import HIGH, LOW, UPDATES, GradientProbe
from .heads import AttentionSum, Reads
from .losses import Loss


class AttentionProbe(GradientProbe):
    """LILA's segmentation probe: attention logits of the decoder plus linear logits of the encoder.

    Args:
        task: see `dense_ctx.Probe`. For depth give `bins`: one query each.
        heads: of the attention; the largest number up to it that divides the channels.
        downscale: keys and values are taken from a map smaller by this factor.
        with_norm: LayerNorms, as in FlowFeat's probe.
        reads to seed: see `GradientProbe`.
    """

    file_args: ClassVar[Mapping[str, Any] | None] = {
        **(GradientProbe.file_args or {}),
        "heads": range(1, 257),
        "downscale": range(1, 65),
        "with_norm": bool,
    }

    def __init__(
        self,
        task: Task = "segmentation",
        heads: int = 8,
        downscale: int = 4,
        with_norm: bool = True,
        reads: Reads | None = None,
        classes: int | None = None,
        updates: int = UPDATES,
        replay: int | None = None,
        lr: float = 1e-3,
        weight_decay: float = 1e-3,
        total_steps: int | None = None,
        loss: Loss = "mse",
        bins: int = 0,
        low: float = LOW,
        high: float = HIGH,
        seed: int | None = None,
    ) -> None:
        super().__init__(
            task, reads, classes, updates, replay, lr, weight_decay, total_steps, loss, bins, low, high, seed
        )
        if heads < 1 or downscale < 1:
            raise InputError(f"heads={heads}, downscale={downscale}: both at least 1")
        self.heads, self.downscale, self.with_norm = heads, downscale, with_norm
        self.refuse_unread()

    def refuse_unread(self) -> None:
        """The attention belongs to the branch of the pixels."""
        patches = self.reads == "patches"
        refuse_idle(
            (
                (patches and self.heads != 8, "heads", "with reads=patches"),
                (patches and self.downscale != 4, "downscale", "with reads=patches"),
                (patches and not self.with_norm, "with_norm", "with reads=patches"),
            )
        )

    def build(self, dims: tuple[int, int], outputs: int) -> nn.Module:
        """An `AttentionSum`."""
        return AttentionSum(dims, outputs, self.reads, self.heads, self.downscale, self.with_norm)
