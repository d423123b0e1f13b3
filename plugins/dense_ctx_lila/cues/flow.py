"""Base class of the flow cues: direction, sign, unit."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor
from torch.nn import functional

from dense_ctx.images import padded_size

from .base import Cue


class FlowCue(Cue):
    """Optical flow between two frames (LILA, section 3: "Cue maps").

    The context gets the forward flow U(context -> query), the query gets MINUS the backward flow, -U(query -> context):
    for a rigid motion both say the same, so one linear map can predict both. (x, y) in pixels of the whole frame.
    """

    channels = 2
    unit = "pixels"
    pair = True
    antisymmetric = True
    meaning = "(x, y) by which a pixel moves from the context's time to the query's"

    @abstractmethod
    def flow(self, first: Tensor, second: Tensor) -> Tensor:
        """Find U [N, 2, H, W]: what is at p in `first` is at p + U(p) in `second`, both [N, 3, H, W] in [0, 1]."""

    def forward(self, context: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """Both directions in one batch of 2 B pairs."""
        forward, backward = self.flow(torch.cat([context, query]), torch.cat([query, context])).float().chunk(2)
        return forward, -backward


def pad_frames(frames: Tensor, multiple: int, least: int) -> Tensor:
    """Pad below and to the right by repeating the border, to multiples of `multiple` and at least `least` pixels."""
    height, width = padded_size((frames.shape[-2], frames.shape[-1]), multiple)
    extra = (0, max(width, least) - frames.shape[-1], 0, max(height, least) - frames.shape[-2])
    return functional.pad(frames, extra, mode="replicate") if any(extra) else frames
