"""A small supervision cue: where a frame has edges."""

import torch
from dense_ctx_lila.cues.base import Cue
from torch.nn import functional


class Edges(Cue):
    """The gradient of the grey image, by central differences, the border repeated.

    A single-frame cue: each map comes from its own frame. A pair cue (flow, say) sets pair = True and uses both.
    """

    channels = 2
    unit = "grey levels a pixel"  # "pixels" would say: flow, to be divided by the frame's size
    pair = False
    meaning = "(x, y) gradient of the grey image in [0, 1]"
    version = 1  # raise it when the values change: caches of another version are refused

    def forward(self, context, query):
        """Maps [B, 2, H, W] of frames [B, 3, H, W] in [0, 1]."""
        return _gradient(context), _gradient(query)


def _gradient(frames):
    grey = functional.pad(frames.mean(dim=1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    x = (grey[..., 1:-1, 2:] - grey[..., 1:-1, :-2]) / 2
    y = (grey[..., 2:, 1:-1] - grey[..., :-2, 1:-1]) / 2
    return torch.cat([x, y], dim=1)
