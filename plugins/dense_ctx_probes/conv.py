"""Convolution probe: BatchNorm + 1 x 1 for segmentation, 5 x 5 on the decoder + 1 x 1 on the encoder for normals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, get_args

from torch import nn

from dense_ctx.errors import InputError, refuse_idle
from dense_ctx.interfaces import Task

from .gradient import HIGH, LOW, UPDATES, GradientProbe
from .heads import ConvHead, Norm, Reads
from .losses import Loss


class ConvProbe(GradientProbe):
    """A k x k convolution of the pixels plus a 1 x 1 convolution of the patches, trained by AdamW.

    Args:
        task: see `dense_ctx.Probe`.
        kernel: side of the pixels' convolution, odd (LILA's normals: 5).
        norm: "batch" (BatchNorm before each convolution) or "none".
        reads to seed: see `GradientProbe`.
    """

    file_args: ClassVar[Mapping[str, Any] | None] = {
        **(GradientProbe.file_args or {}),
        "kernel": range(1, 32),
        "norm": frozenset(get_args(Norm)),
    }

    def __init__(
        self,
        task: Task = "segmentation",
        kernel: int = 1,
        norm: Norm = "batch",
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
        if kernel < 1 or kernel % 2 == 0 or norm not in ("batch", "none"):
            raise InputError(f"kernel={kernel}, norm={norm!r}: expected an odd number and 'batch' or 'none'")
        self.kernel, self.norm = kernel, norm
        self.refuse_unread()

    def refuse_unread(self) -> None:
        """`kernel` belongs to the branch of the pixels."""
        refuse_idle([(self.reads == "patches" and self.kernel != 1, "kernel", "with reads=patches")])

    def build(self, dims: tuple[int, int], outputs: int) -> nn.Module:
        """A `ConvHead`."""
        return ConvHead(dims, outputs, self.reads, self.kernel, self.norm)
