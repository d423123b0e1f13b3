"""Tasks of instance maps: boundaries, distance transform, and instance discrimination."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from dense_ctx.config import Output
from dense_ctx.data import Kind
from dense_ctx.errors import InputError
from dense_ctx.interfaces import Metric

from . import losses, targets
from .scoring import BoundaryScores, ClusterScores, SquaredErrors
from .tasks import Task


class InstanceTask(Task):
    """A task whose annotations are instance maps: -1 unknown, 0 background, 1.. instances."""

    kind: ClassVar[Kind] = "instances"
    hint: ClassVar[str] = "voc2012: instances=true; coco-instances; image-folder: kind=instances"


class Boundaries(InstanceTask):
    """Pixels on both sides of an edge between instances, or an instance and the background; logits."""

    metric: ClassVar[str] = "iou"
    loss_score: ClassVar[str] = "ce"
    lr: ClassVar[float] = 2e-3
    stored: ClassVar[torch.dtype] = torch.float16

    def target(self, annotation: Tensor, classes: Sequence[str], name: str) -> Tensor:
        """Shares [1, H, W]: 1 on a boundary."""
        return targets.boundaries(targets.check_instances(annotation, name))

    def output(self, classes: Sequence[str]) -> Output | None:
        """Logits of being on a boundary."""
        return Output("regression", sigmoid=True)

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Binary cross-entropy."""
        return losses.cross_entropy_of_logits(prediction, target)

    def scores(self, classes: Sequence[str]) -> Metric:
        """IoU, F-measure and cross-entropy."""
        return BoundaryScores()


class Distance(InstanceTask):
    """Distance to the instance's outside, divided by the instance's largest."""

    metric: ClassVar[str] = "mse"
    loss_score: ClassVar[str] = "mse"
    lower_is_better: ClassVar[bool] = True
    stored: ClassVar[torch.dtype] = torch.float16

    def target(self, annotation: Tensor, classes: Sequence[str], name: str) -> Tensor:
        """Distances [1, H, W], 0 on the background."""
        return targets.distances(targets.check_instances(annotation, name))

    def output(self, classes: Sequence[str]) -> Output | None:
        """Distances as a share of the instance's largest."""
        return Output("regression")

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Mean squared error."""
        return losses.squared_error(prediction, target)

    def scores(self, classes: Sequence[str]) -> Metric:
        """Mean squared error."""
        return SquaredErrors()


class Instances(InstanceTask):
    """A latent in which k-means tells the instances of an image apart.

    Args:
        least: instances an image needs to be scored (the paper: 3 large ones).
        large: share of the image an instance covers to be one of those.
        seed: of k-means.
    """

    channels: int | None = 32  # the paper's; any will do
    values: ClassVar[bool] = False
    numbered: ClassVar[bool] = True
    metric: ClassVar[str] = "ari"

    def __init__(self, least: int = 1, large: float = 0.0, seed: int = 0) -> None:
        if least < 1 or not 0 <= large < 1:
            raise InputError(f"least={least}, large={large}: expected at least 1 instance, of a share in [0, 1)")
        self.least, self.large, self.seed = least, large, seed

    def target(self, annotation: Tensor, classes: Sequence[str], name: str) -> Tensor:
        """The instance map itself."""
        return targets.check_instances(annotation, name)

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy of the classifier over all instances of the data set."""
        return losses.cross_entropy(prediction, target)

    def scores(self, classes: Sequence[str]) -> Metric:
        """Adjusted Rand index of the clusters, in the foreground."""
        return ClusterScores(least=self.least, large=self.large, seed=self.seed)
