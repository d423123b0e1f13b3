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


def consistency(context: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
    """Where forward and backward flow agree, in the context and in the query: 1, elsewhere and out of the frame 0.

    A pixel's flow u and the way back w from where it leads must cancel: |u + w|^2 < 0.01 (|u|^2 + |w|^2) + 0.5
    (Sundaram, Brox, Keutzer 2010, eq. 5).

    Args:
        context, query: forward flow, and minus the backward flow, [B, 2, h, w] in pixels of these maps.

    Returns:
        Two maps [B, 1, h, w].
    """
    return _agreement(context, query, 1.0), _agreement(query, context, -1.0)


def _agreement(flow: Tensor, other: Tensor, sign: float) -> Tensor:
    height, width = flow.shape[-2:]
    y, x = (torch.arange(n, device=flow.device, dtype=flow.dtype) for n in (height, width))
    end = torch.stack(torch.broadcast_tensors(x, y[:, None])) + sign * flow
    size = flow.new_tensor([width, height])[:, None, None]
    inside = ((end >= 0) & (end <= size - 1)).all(1, keepdim=True)
    grid = ((end + 0.5) / size * 2 - 1).movedim(1, -1)
    back = functional.grid_sample(other, grid, mode="bilinear", padding_mode="border", align_corners=False)
    apart = (flow - back).square().sum(1, keepdim=True)
    length = (flow.square() + back.square()).sum(1, keepdim=True)
    return (inside & (apart < 0.01 * length + 0.5)).to(flow.dtype)


def pad_frames(frames: Tensor, multiple: int, least: int) -> Tensor:
    """Pad below and to the right by repeating the border, to multiples of `multiple` and at least `least` pixels."""
    height, width = padded_size((frames.shape[-2], frames.shape[-1]), multiple)
    extra = (0, max(width, least) - frames.shape[-1], 0, max(height, least) - frames.shape[-2])
    return functional.pad(frames, extra, mode="replicate") if any(extra) else frames
