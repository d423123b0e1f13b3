"""A task for MAXA's objective: whether a pixel is red."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from dense_ctx_maxa.tasks import Task
from torch import Tensor
from torch.nn import functional

from dense_ctx.interfaces import Metric, Scores


class Red(Task):
    """1 on red, as a logit."""

    kind = "segmentation"
    metric, unit = "right", "%"
    lr = 0.05

    def target(self, annotation: Tensor, classes: Sequence[str], name: str) -> Tensor:
        """1 on red and 0 elsewhere [1, H, W]; NaN where nothing is annotated."""
        red = (annotation == classes.index("red")).float()
        return torch.where(annotation >= 0, red, torch.nan)[None]

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Binary cross-entropy over the known pixels."""
        valid = target.isfinite()
        return functional.binary_cross_entropy_with_logits(prediction[valid], target[valid])

    def scores(self, classes: Sequence[str]) -> Metric:
        """Per cent of pixels that are right."""
        return Right()


class Right(Metric):
    """Per cent of known pixels on the right side of 0."""

    target: ClassVar[str] = "segmentation"
    higher_is_better: ClassVar[Mapping[str, bool]] = {"right": True}

    def __init__(self, classes: Sequence[str] = ()) -> None:
        super().__init__(classes)
        self.sums = [0, 0, 0]

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add a logit [1, H, W] and a target of `Red`."""
        valid = target.isfinite()
        right = ((prediction.cpu() > 0) == (target > 0.5))[valid]
        self.merge([1, right.numel(), int(right.sum())])

    def state(self):
        """Images, pixels, right pixels."""
        return self.sums

    def merge(self, state) -> None:
        """Add another's."""
        self.sums = [one + two for one, two in zip(self.sums, state, strict=True)]

    def compute(self) -> Scores:
        """The score."""
        images, pixels, right = self.sums
        return Scores({"right": 100 * right / pixels}, counts={"images": images, "pixels": pixels})
