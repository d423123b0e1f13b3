"""J and F over clips, frame by frame, as in the DAVIS evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from dense_ctx.errors import InputError
from dense_ctx.interfaces import Metric, Scores

from .davis import SequenceScorer, SequenceScores, summarize


class VideoMetric(Metric):
    """Means over objects of J and F, see `summarize`; parts: each object's, as "clip_1".

    The first and the last frame of a clip are not scored. `start` begins a clip and ends the previous one.
    """

    target: ClassVar[str] = "video"
    higher_is_better: ClassVar[Mapping[str, bool]] = {
        "J&F-Mean": True,
        "J-Mean": True,
        "J-Recall": True,
        "J-Decay": False,
        "F-Mean": True,
        "F-Recall": True,
        "F-Decay": False,
    }

    def __init__(self, classes: Sequence[str] = ()) -> None:
        super().__init__(classes)
        self.clips: dict[str, SequenceScores] = {}
        self._current: SequenceScorer | None = None

    def start(self, name: str, target: Tensor) -> None:
        """Begin a clip.

        Args:
            name: new to this accumulator.
            target: object ids [H, W] of the first frame, 0 background, 255 void.

        Raises:
            InputError: the mask has no object, the clip was scored before, or the previous clip has under three frames.
        """
        self._end()
        self._refuse_second(name)
        self._current = SequenceScorer(name, target.cpu().numpy())

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add the clip's next frame, from the second on: object ids [H, W] each, 255 void in the target."""
        if self._current is None:
            raise InputError("update() before the clip's first frame: call start(name, target) first")
        self._current.add(target.cpu().numpy(), prediction.cpu().numpy())

    def state(self) -> Any:
        """{clip: {"j": [objects][frames - 2], "f": the same}}; ends the clip."""
        self._end()
        return {name: {"j": scores.j.tolist(), "f": scores.f.tolist()} for name, scores in self.clips.items()}

    def merge(self, state: Any) -> None:
        """Add the clips of another."""
        for name, scores in state.items():
            self._refuse_second(name)
            j, f = (np.asarray(scores[key], dtype=np.float64) for key in ("j", "f"))
            self.clips[name] = SequenceScores(name, j, f)

    def compute(self) -> Scores:
        """The means over the objects of all clips; ends the clip."""
        self._end()
        values = summarize(self.clips.values())
        objects = values.pop("objects")
        return Scores(values, objects, {"clips": len(self.clips), "objects": len(objects)})

    def _end(self) -> None:
        if self._current is not None:
            self._refuse_second(self._current.name)
            self.clips[self._current.name] = self._current.result()
            self._current = None

    def _refuse_second(self, name: str) -> None:
        if name in self.clips:
            raise InputError(f"The clip {name!r} is scored twice: names of clips are unique")
