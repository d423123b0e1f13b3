"""A supervision cue: the brightness of a frame."""

from dense_ctx_lila.cues.base import Cue


class Grey(Cue):
    """Mean of the three colours; a single-frame cue, so each map comes from its own frame."""

    channels = 1
    unit = "grey levels"
    pair = False
    meaning = "brightness in [0, 1]"

    def forward(self, context, query):
        """Maps [B, 1, H, W] of frames [B, 3, H, W] in [0, 1]."""
        return context.mean(1, keepdim=True), query.mean(1, keepdim=True)
