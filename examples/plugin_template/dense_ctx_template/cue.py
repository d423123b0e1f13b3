"""A supervision cue, a kind that the plugin LILA defines: where a frame has edges."""

import torch
from dense_ctx_lila.cues.base import Cue
from torch.nn import functional


class Edges(Cue):
    """Gradient of the grey image by central differences, with the border replicated.

    A single-frame cue: each map is computed from its own frame. A pair cue, such as flow, sets pair = True.
    """

    channels = 2
    unit = "grey levels a pixel"  # "pixels" is reserved for flow, which is divided by the frame's size
    pair = False
    meaning = "(x, y) gradient of the grey image in [0, 1]"
    version = 1  # raise it when the values change: caches of another version are refused

    def forward(self, context, query):
        """Compute the maps [B, 2, H, W] of frames [B, 3, H, W] in [0, 1]."""
        return _gradient(context), _gradient(query)


def _gradient(frames):
    grey = functional.pad(frames.mean(dim=1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    x = (grey[..., 1:-1, 2:] - grey[..., 1:-1, :-2]) / 2
    y = (grey[..., 2:, 1:-1] - grey[..., :-2, 1:-1]) / 2
    return torch.cat([x, y], dim=1)
