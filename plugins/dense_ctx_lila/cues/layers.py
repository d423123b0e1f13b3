"""layers: the order in depth of a synthetic pair's objects."""

from __future__ import annotations

from torch import Tensor

from dense_ctx.errors import InputError

from .base import Cue


class Layers(Cue):
    """The order in depth of the pasted objects of a synthetic pair (`sampling.synthetic`), which says where they end.

    Raises:
        InputError: asked of frames, in which the order is not known.
    """

    channels = 1
    unit = "layers"
    pair = False
    meaning = "0 in the background, 1 and more on pasted objects, larger is nearer"

    def __init__(self) -> None:
        super().__init__()

    def forward(self, context: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """Never given."""
        raise InputError(
            "The cue layers is known of synthetic pairs alone: train with objective.args.sampling.synthetic above 0"
        )
