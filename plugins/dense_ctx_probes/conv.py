"""Convolution probe: BatchNorm + 1 x 1 for segmentation, 5 x 5 on the decoder + 1 x 1 on the encoder for normals."""

from __future__ import annotations

from typing import Any

from torch import nn

from dense_ctx.errors import InputError
from dense_ctx.interfaces import Task

from .gradient import GradientProbe
from .heads import ConvHead, Norm


class ConvProbe(GradientProbe):
    """A k x k convolution of the pixels plus a 1 x 1 convolution of the patches, trained by AdamW.

    Args:
        task: see `dense_ctx.Probe`.
        kernel: side of the pixels' convolution, odd (LILA's normals: 5).
        norm: "batch" (BatchNorm before each convolution) or "none".
        **options: of `GradientProbe`.
    """

    def __init__(self, task: Task = "segmentation", kernel: int = 1, norm: Norm = "batch", **options: Any) -> None:
        super().__init__(task, **options)
        if kernel < 1 or kernel % 2 == 0 or norm not in ("batch", "none"):
            raise InputError(f"kernel={kernel}, norm={norm!r}: expected an odd number and 'batch' or 'none'")
        self.kernel, self.norm = kernel, norm

    def build(self, dims: tuple[int, int], outputs: int) -> nn.Module:
        """A `ConvHead`."""
        return ConvHead(dims, outputs, self.reads, self.kernel, self.norm)
