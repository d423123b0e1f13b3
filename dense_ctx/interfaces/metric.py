"""Metric: predictions and targets to scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor


@dataclass(frozen=True)
class Scores:
    """What a Metric computes.

    values: each of the metric's scores, NaN where one does not exist. parts: the headline's parts (per class, per
    object), None where there is none. counts: how many images, pixels ... were scored.
    """

    values: Mapping[str, float]
    parts: Mapping[str, Any] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)


class Metric(ABC):
    """Scores over a data set, accumulated image by image; accumulators merge, however the work is divided.

    A subclass takes its conventions as keyword arguments with defaults, after `classes`. The class itself is
    registered, not a function.

    Attributes set by the subclass:
        target: kind of the data sets that it scores: "segmentation", "depth", "normals", "instances" or "video".
        higher_is_better: the scores it computes, each with whether a higher one is better.

    Args:
        classes: names of the data set's classes; () where the targets are values.
    """

    target: ClassVar[str]
    higher_is_better: ClassVar[Mapping[str, bool]]

    def __init__(self, classes: Sequence[str] = ()) -> None:
        self.classes = tuple(classes)

    def start(self, name: str, target: Tensor) -> None:
        """Begin a clip whose first frame is annotated by `target`, int64 [H, W] (video only). Default: nothing."""
        return None

    @abstractmethod
    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add one image, or a clip's next frame.

        Args:
            prediction: [K, H, W] class probabilities or values; of a clip's frame the labels, int64 [H, W].
            target: as `dense_ctx.data.base.Sample` has it.
        """

    @abstractmethod
    def state(self) -> Any:
        """The accumulated sums as JSON values that a round trip through `json` preserves (no tuples, only str keys)."""

    @abstractmethod
    def merge(self, state: Any) -> None:
        """Add another accumulator's `state`."""

    @abstractmethod
    def compute(self) -> Scores:
        """The scores over everything added, one value for each of `higher_is_better`.

        Raises:
            InputError: nothing could be scored.
        """
