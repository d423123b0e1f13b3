"""The metric of each task, summed over images."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from scipy.cluster.vq import ClusterError, kmeans2
from torch import Tensor

from dense_ctx.errors import InputError
from dense_ctx.metrics import DepthErrors, NormalErrors, Segmentation, adjusted_rand_index, confusion_matrix
from dense_ctx.metrics.vos import TOLERANCE

from .losses import labels_loss, values_loss
from .tasks import Task


class Score:
    """Add images with `add`, read `scores`.

    boundaries: iou of pixels with a positive logit, pooled over images; ce; f, mean over images, see `boundary_f`.
    distance: mse over pixels. instances: ari, mean over images with at least `least` instances. semantic: miou,
    pixel_accuracy, ce. depth: mse over pixels, rmse and delta1..3 as means over images. normals: rmse, mean, delta1..3.

    Args:
        task: which.
        classes: their number, of "semantic".
        least: instances an image needs to count (paper: 3 large ones).
        seed: of k-means.
    """

    def __init__(self, task: Task, classes: int = 0, least: int = 1, seed: int = 0) -> None:
        self.task, self.least, self.seed = task, least, seed
        self.images = self.skipped = 0
        self._sums: dict[str, float] = {}
        self._counts: dict[str, float] = {}
        self._confusion = torch.zeros(classes, classes, dtype=torch.int64)
        self._normals = NormalErrors()

    def add(self, prediction: Tensor, target: Tensor) -> Score:
        """Score one image: prediction [K, H, W] of the decoder, target as `tasks.target` makes it.

        Raises:
            InputError: the prediction is not finite.
        """
        prediction, target = prediction.detach().float().cpu(), target.cpu()
        if not bool(prediction.isfinite().all()):
            raise InputError("The prediction holds NaN or infinity")
        seen = target.isfinite().all(0) if self.task.values else target >= 0
        parts: dict[str, Callable[[Tensor, Tensor, Tensor], bool]] = {
            "boundaries": self._boundaries,
            "distance": self._squares,
            "instances": self._instances,
            "semantic": self._semantic,
            "depth": self._depth,
            "normals": self._normal,
        }
        if bool(seen.any()) and parts[self.task.name](prediction, target, seen):
            self.images += 1
        else:
            self.skipped += 1
        return self

    def scores(self) -> dict[str, float]:
        """The metrics.

        Raises:
            InputError: no image could be scored.
        """
        if not self.images:
            raise InputError(f"Nothing was scored: none of {self.skipped} images has what maxa-{self.task.name} needs")
        found = {name: self._sums[name] / count if count else math.nan for name, count in self._counts.items()}
        if self.task.name == "semantic":
            scored = Segmentation.of(self._confusion)
            found |= {"miou": scored.miou, "pixel_accuracy": scored.pixel_accuracy}
        return found | self._normals.scores() if self.task.name == "normals" else found

    def _sum(self, name: str, value: float, count: float = 1) -> None:
        self._sums[name] = self._sums.get(name, 0.0) + value
        self._counts[name] = self._counts.get(name, 0.0) + count

    def _boundaries(self, prediction: Tensor, target: Tensor, seen: Tensor) -> bool:
        found, truth = (prediction[0] > 0) & seen, (target[0] > 0) & seen
        self._sum("iou", float((found & truth).sum()), float((found | truth).sum()))
        pixels = float(seen.sum())
        self._sum("ce", float(values_loss("boundaries", prediction[None], target[None])) * pixels, pixels)
        self._sum("f", boundary_f(found.numpy(), truth.numpy()))
        return True

    def _squares(self, prediction: Tensor, target: Tensor, seen: Tensor) -> bool:
        self._sum("mse", float((prediction - target)[0][seen].double().square().sum()), float(seen.sum()))
        return True

    def _instances(self, prediction: Tensor, target: Tensor, seen: Tensor) -> bool:
        foreground = target > 0
        count = len(torch.unique(target[foreground]))
        if count < max(1, self.least):
            return False
        labels = cluster(prediction[:, foreground].T, count, self.seed)
        self._sum("ari", adjusted_rand_index(labels, target[foreground]))
        return True

    def _semantic(self, prediction: Tensor, target: Tensor, seen: Tensor) -> bool:
        self._confusion += confusion_matrix(prediction.argmax(0), target, len(self._confusion), ignore_index=-1)
        pixels = float(seen.sum())
        self._sum("ce", float(labels_loss(prediction[None], target[None])) * pixels, pixels)
        return True

    def _depth(self, prediction: Tensor, target: Tensor, seen: Tensor) -> bool:
        errors = DepthErrors.of(prediction, target)
        if errors is None:
            return False
        self._squares(prediction, target, seen)
        for name, value in errors.to_dict().items():
            self._sum(name, value)
        return True

    def _normal(self, prediction: Tensor, target: Tensor, seen: Tensor) -> bool:
        self._normals.update(prediction, target)
        return True


def cluster(latents: Tensor, count: int, seed: int = 0) -> Tensor:
    """k-means of rows [N, D] into `count` groups (k-means++, the best of four starts): int64 [N]."""
    values = latents.double().numpy()
    count = min(count, len(np.unique(values, axis=0)))
    if count <= 1:
        return torch.zeros(len(values), dtype=torch.int64)
    best: tuple[float, Any] | None = None
    for start in range(4):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # an empty group: another start will do
                centres, labels = kmeans2(values, count, iter=50, minit="++", seed=seed + start, missing="warn")
        except (ClusterError, ValueError):
            continue
        error = float(np.square(values - centres[labels]).sum())
        if best is None or error < best[0]:
            best = (error, labels)
    if best is None:
        raise InputError(f"k-means found no {count} groups in {len(values)} pixels")
    return torch.from_numpy(best[1].astype(np.int64))


def boundary_f(prediction: np.ndarray[Any, Any], truth: np.ndarray[Any, Any], tolerance: float = TOLERANCE) -> float:
    """Harmonic mean of the shares of boundary pixels, [H, W] bool, that have one of the other's near.

    Args:
        tolerance: of the image's diagonal, rounded up to pixels, as DAVIS has it.

    Returns:
        1 where neither has a boundary, 0 where one has none.
    """
    if not prediction.any() or not truth.any():
        return float(not prediction.any() and not truth.any())
    radius = math.ceil(tolerance * math.hypot(*truth.shape))
    precision = float((ndimage.distance_transform_edt(~truth)[prediction] <= radius).mean())
    recall = float((ndimage.distance_transform_edt(~prediction)[truth] <= radius).mean())
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)
