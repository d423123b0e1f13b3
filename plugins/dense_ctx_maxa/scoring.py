"""A metric for each task, summed over images; targets are those that the tasks make."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from dense_ctx.errors import InputError
from dense_ctx.interfaces import Metric, Scores
from dense_ctx.metrics import DepthErrors, NormalErrors, Segmentation, adjusted_rand_index, confusion_matrix

from .losses import cross_entropy, cross_entropy_of_logits
from .measures import boundary_f, cluster


class Means(Metric):
    """Weighted means over images. An image without a known pixel is skipped, as is one that `add_image` refuses."""

    def __init__(self, classes: Sequence[str] = ()) -> None:
        super().__init__(classes)
        self.images = self.skipped = 0
        self.sums: dict[str, list[float]] = {name: [0.0, 0.0] for name in self.higher_is_better}  # value, weight

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add one image: a decoder's output [K, H, W] and the target.

        Raises:
            InputError: the prediction is not finite.
        """
        prediction, target = prediction.detach().float().cpu(), target.cpu()
        if not bool(prediction.isfinite().all()):
            raise InputError("The prediction holds NaN or infinity")
        known = target.isfinite().all(0) if target.is_floating_point() else target >= 0
        if bool(known.any()) and self.add_image(prediction, target, known):
            self.images += 1
        else:
            self.skipped += 1

    @abstractmethod
    def add_image(self, prediction: Tensor, target: Tensor, known: Tensor) -> bool:
        """Add what the known pixels, bool [H, W], say; False if the image cannot be scored."""

    def add(self, name: str, value: float, weight: float = 1.0) -> None:
        """Add to one of the means; `value` is the weighted one."""
        self.sums[name][0] += value
        self.sums[name][1] += weight

    def state(self) -> Any:
        """{"images", "skipped": how many; "sums": name to [value, weight]}."""
        return {"images": self.images, "skipped": self.skipped, "sums": {k: list(v) for k, v in self.sums.items()}}

    def merge(self, state: Any) -> None:
        """Add the sums of another."""
        self.images += state["images"]
        self.skipped += state["skipped"]
        for name, (value, weight) in state["sums"].items():
            self.add(name, value, weight)

    def compute(self) -> Scores:
        """The means; NaN where nothing has weight."""
        if not self.images:
            raise InputError(f"Nothing was scored: none of {self.skipped} images has what {type(self).__name__} needs")
        means = {name: value / weight if weight else math.nan for name, (value, weight) in self.sums.items()}
        return Scores(means, counts={"images": self.images, "images_skipped": self.skipped})


class BoundaryScores(Means):
    """iou of pixels with a positive logit, pooled over images; f: mean over images, see `boundary_f`; ce."""

    target: ClassVar[str] = "instances"
    higher_is_better: ClassVar[Mapping[str, bool]] = {"iou": True, "ce": False, "f": True}

    def add_image(self, prediction: Tensor, target: Tensor, known: Tensor) -> bool:
        """Logits [1, H, W] and shares [1, H, W]."""
        positive, truth = (prediction[0] > 0) & known, (target[0] > 0) & known
        self.add("iou", float((positive & truth).sum()), float((positive | truth).sum()))
        pixels = float(known.sum())
        self.add("ce", float(cross_entropy_of_logits(prediction[None], target[None])) * pixels, pixels)
        self.add("f", boundary_f(positive.numpy(), truth.numpy()))
        return True


class SquaredErrors(Means):
    """mse over the pixels of all images."""

    target: ClassVar[str] = "instances"
    higher_is_better: ClassVar[Mapping[str, bool]] = {"mse": False}

    def add_image(self, prediction: Tensor, target: Tensor, known: Tensor) -> bool:
        """Values [1, H, W]."""
        self.add("mse", float((prediction - target)[0][known].double().square().sum()), float(known.sum()))
        return True


class ClusterScores(Means):
    """ari: adjusted Rand index of k-means with the true count, in the foreground; mean over images.

    Args:
        classes: none.
        least: instances an image needs to count.
        seed: of k-means.
    """

    target: ClassVar[str] = "instances"
    higher_is_better: ClassVar[Mapping[str, bool]] = {"ari": True}

    def __init__(self, classes: Sequence[str] = (), least: int = 1, seed: int = 0) -> None:
        super().__init__(classes)
        self.least, self.seed = least, seed

    def add_image(self, prediction: Tensor, target: Tensor, known: Tensor) -> bool:
        """A latent [K, H, W] and instances [H, W], 0 the background."""
        foreground = target > 0
        count = len(torch.unique(target[foreground]))
        if count < max(1, self.least):
            return False
        labels = cluster(prediction[:, foreground].T, count, self.seed)
        self.add("ari", adjusted_rand_index(labels, target[foreground]))
        return True


class SemanticScores(Means):
    """miou and pixel_accuracy of all pixels together, and their mean ce."""

    target: ClassVar[str] = "segmentation"
    higher_is_better: ClassVar[Mapping[str, bool]] = {"ce": False, "miou": True, "pixel_accuracy": True}

    def __init__(self, classes: Sequence[str] = ()) -> None:
        super().__init__(classes)
        self.confusion = torch.zeros(len(self.classes), len(self.classes), dtype=torch.int64)

    def add_image(self, prediction: Tensor, target: Tensor, known: Tensor) -> bool:
        """Logits [K, H, W] and class ids [H, W]."""
        self.confusion += confusion_matrix(prediction.argmax(0), target, len(self.confusion), ignore_index=-1)
        pixels = float(known.sum())
        self.add("ce", float(cross_entropy(prediction[None], target[None])) * pixels, pixels)
        return True

    def state(self) -> Any:
        """As `Means.state`, and "confusion": rows of pixel counts."""
        return {**super().state(), "confusion": self.confusion.tolist()}

    def merge(self, state: Any) -> None:
        """Add the counts of another."""
        super().merge(state)
        self.confusion += torch.tensor(state["confusion"], dtype=torch.int64)

    def compute(self) -> Scores:
        """The scores; parts: the IoU of each class."""
        means, pooled = super().compute(), Segmentation.of(self.confusion)
        values = {**means.values, "miou": pooled.miou, "pixel_accuracy": pooled.pixel_accuracy}
        ious = (None if math.isnan(iou) else iou for iou in pooled.per_class)
        return Scores(values, dict(zip(self.classes, ious, strict=True)), means.counts)


class DepthScores(Means):
    """mse over pixels; the errors of `dense_ctx.metrics.DepthErrors`, means over images."""

    target: ClassVar[str] = "depth"
    higher_is_better: ClassVar[Mapping[str, bool]] = {
        **dict.fromkeys(("mse", "rmse", "abs_rel", "log10", "silog"), False),
        **dict.fromkeys(("delta1", "delta2", "delta3"), True),
    }

    def add_image(self, prediction: Tensor, target: Tensor, known: Tensor) -> bool:
        """Metres [1, H, W]; False without a known depth from 1 mm to 10 m."""
        errors = DepthErrors.of(prediction, target)
        if errors is None:
            return False
        self.add("mse", float((prediction - target)[0][known].double().square().sum()), float(known.sum()))
        for name, value in errors.to_dict().items():
            self.add(name, value)
        return True


class NormalScores(Means):
    """Angular errors in degrees over the pixels of all images, see `dense_ctx.metrics.NormalErrors`."""

    target: ClassVar[str] = "normals"
    higher_is_better: ClassVar[Mapping[str, bool]] = {
        **dict.fromkeys(("rmse", "mean"), False),
        **dict.fromkeys(("delta1", "delta2", "delta3"), True),
    }

    def __init__(self, classes: Sequence[str] = ()) -> None:
        super().__init__(classes)
        self.errors = NormalErrors()

    def add_image(self, prediction: Tensor, target: Tensor, known: Tensor) -> bool:
        """Vectors [3, H, W] of any length and unit normals [3, H, W]."""
        self.errors.update(prediction, target)
        return True

    def state(self) -> Any:
        """As `Means.state`, and "normals": [pixels, squares, total, [below each threshold]]."""
        errors = self.errors
        return {**super().state(), "normals": [errors.count, errors.squares, errors.total, list(errors.below)]}

    def merge(self, state: Any) -> None:
        """Add the sums of another."""
        super().merge(state)
        count, squares, total, (first, second, third) = state["normals"]
        self.errors.add(NormalErrors(count, squares, total, (first, second, third)))

    def compute(self) -> Scores:
        """The errors and the shares of pixels below 11.25, 22.5 and 30 degrees."""
        return Scores(self.errors.scores(), counts=super().compute().counts)
