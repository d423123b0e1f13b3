"""Tasks whose target is the annotation: semantic segmentation, depth, surface normals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from dense_ctx.config import Output
from dense_ctx.data import Kind
from dense_ctx.errors import ConfigError
from dense_ctx.interfaces import Metric

from . import losses, targets
from .scoring import DepthScores, NormalScores, SemanticScores
from .tasks import Task


class Semantic(Task):
    """The class of every pixel; logits.

    Args:
        outputs: of the decoder, at least the classes of the data set; further ones are never correct (the paper: 201 on
            COCO-Stuff, whose ids run up to there). None: one for each class.
    """

    kind: ClassVar[Kind] = "segmentation"
    values: ClassVar[bool] = False
    metric: ClassVar[str] = "miou"
    loss_score: ClassVar[str] = "ce"

    def __init__(self, outputs: int | None = None) -> None:
        self.channels = outputs

    def target(self, annotation: Tensor, classes: Sequence[str], name: str) -> Tensor:
        """Class ids."""
        return targets.check_labels(annotation, len(classes), name)

    def output(self, classes: Sequence[str]) -> Output | None:
        """Scores of the classes; outputs beyond them count for nothing."""
        return Output("segmentation", tuple(classes))

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy."""
        return losses.cross_entropy(prediction, target)

    def scores(self, classes: Sequence[str]) -> Metric:
        """Mean IoU and pixel accuracy over the classes, and cross-entropy over all outputs.

        Raises:
            ConfigError: `outputs` is fewer than the classes.
        """
        if self.channels is not None and self.channels < len(classes):
            raise ConfigError(f"outputs={self.channels}, but the data set has {len(classes)} classes")
        return SemanticScores(classes)


class Depth(Task):
    """Metres to the camera's plane."""

    kind: ClassVar[Kind] = "depth"
    metric: ClassVar[str] = "rmse"
    unit: ClassVar[str] = "m"
    lower_is_better: ClassVar[bool] = True
    loss_score: ClassVar[str] = "mse"
    lr: ClassVar[float] = 2e-3

    def target(self, annotation: Tensor, classes: Sequence[str], name: str) -> Tensor:
        """Metres [1, H, W]; what is not above 0 is unknown."""
        return targets.check_depth(annotation, name)

    def output(self, classes: Sequence[str]) -> Output | None:
        """Metres."""
        return Output("depth")

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Mean squared error."""
        return losses.squared_error(prediction, target)

    def scores(self, classes: Sequence[str]) -> Metric:
        """The errors of the metric `depth`, and the mean squared error over pixels."""
        return DepthScores()


class Normals(Task):
    """Unit vectors of surfaces: x right, y down, z into the scene."""

    kind: ClassVar[Kind] = "normals"
    channels: int | None = 3
    metric: ClassVar[str] = "mean"
    unit: ClassVar[str] = "degrees"
    lower_is_better: ClassVar[bool] = True
    stored: ClassVar[torch.dtype] = torch.float16

    def target(self, annotation: Tensor, classes: Sequence[str], name: str) -> Tensor:
        """Normals [3, H, W]."""
        return targets.check_values(annotation, 3, name)

    def output(self, classes: Sequence[str]) -> Output | None:
        """Vectors of any length."""
        return Output("normals")

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """1 - cosine."""
        return losses.cosine_distance(prediction, target)

    def scores(self, classes: Sequence[str]) -> Metric:
        """Angular errors in degrees."""
        return NormalScores()

    def mirrored(self, target: Tensor) -> Tensor:
        """Mirrored in x, as the surface is."""
        return target.flip(-1) * target.new_tensor([-1.0, 1.0, 1.0])[:, None, None]
