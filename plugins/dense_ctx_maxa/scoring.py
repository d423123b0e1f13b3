"""The metric of each task, accumulated over images; targets are those that the tasks compute."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from dense_ctx.errors import InputError
from dense_ctx.interfaces import Metric, Scores
from dense_ctx.plugins import registry

from .losses import cross_entropy, cross_entropy_of_logits
from .measures import adjusted_rand_index, boundary_f, cluster


class TaskMetric(Metric):
    """Weighted means over images, beside the scores of a registered metric, if there is one.

    An image without a known pixel is skipped, as is one that `add_image` refuses.

    Args:
        classes: of the data set.
        base: the metric whose scores are among these.
    """

    def __init__(self, classes: Sequence[str] = (), base: Metric | None = None) -> None:
        super().__init__(classes)
        self.base = base
        self.scored: int | None = None  # channels that the base sees; None: all
        self.images = self.skipped = 0
        names = self.higher_is_better.keys() - (set() if base is None else base.higher_is_better.keys())
        self.sums: dict[str, list[float]] = {name: [0.0, 0.0] for name in sorted(names)}  # value, weight

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
            if self.base is not None:
                self.base.update(prediction[: self.scored], target)
        else:
            self.skipped += 1

    @abstractmethod
    def add_image(self, prediction: Tensor, target: Tensor, known: Tensor) -> bool:
        """Add the scores over the known pixels, bool [H, W]; False if the image cannot be scored."""

    def add(self, name: str, value: float, weight: float = 1.0) -> None:
        """Add to one of the means; `value` is the weighted one."""
        self.sums[name][0] += value
        self.sums[name][1] += weight

    def state(self) -> Any:
        """{"images", "skipped": how many; "sums": name to [value, weight]; "base": its state}."""
        sums = {name: list(pair) for name, pair in self.sums.items()}
        base = None if self.base is None else self.base.state()
        return {"images": self.images, "skipped": self.skipped, "sums": sums, "base": base}

    def merge(self, state: Any) -> None:
        """Add the sums of another."""
        self.images += state["images"]
        self.skipped += state["skipped"]
        for name, (value, weight) in state["sums"].items():
            self.add(name, value, weight)
        if self.base is not None:
            self.base.merge(state["base"])

    def compute(self) -> Scores:
        """The scores; a mean of nothing is NaN."""
        if not self.images:
            raise InputError(f"Nothing was scored: none of {self.skipped} images has what {type(self).__name__} needs")
        base = Scores({}) if self.base is None else self.base.compute()
        means = {name: value / weight if weight else math.nan for name, (value, weight) in self.sums.items()}
        counts = {**base.counts, "images": self.images, "images_skipped": self.skipped}
        return Scores({**means, **base.values}, base.parts, counts)


class BoundaryScores(TaskMetric):
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


class SquaredErrors(TaskMetric):
    """mse over the pixels of all images."""

    target: ClassVar[str] = "instances"
    higher_is_better: ClassVar[Mapping[str, bool]] = {"mse": False}

    def add_image(self, prediction: Tensor, target: Tensor, known: Tensor) -> bool:
        """Values [1, H, W]."""
        self.add("mse", float((prediction - target)[0][known].double().square().sum()), float(known.sum()))
        return True


class ClusterScores(TaskMetric):
    """ari: adjusted Rand index of k-means with the true count, in the foreground; mean over images.

    Args:
        classes: none.
        least: instances an image needs to count, each covering at least the share `large` of it.
        seed: of k-means.
    """

    target: ClassVar[str] = "instances"
    higher_is_better: ClassVar[Mapping[str, bool]] = {"ari": True}

    def __init__(self, classes: Sequence[str] = (), least: int = 1, large: float = 0.0, seed: int = 0) -> None:
        super().__init__(classes)
        self.least, self.large, self.seed = least, large, seed

    def add_image(self, prediction: Tensor, target: Tensor, known: Tensor) -> bool:
        """A latent [K, H, W] and instances [H, W], 0 the background."""
        foreground = target > 0
        sizes = torch.unique(target[foreground], return_counts=True)[1]
        count = len(sizes)
        if int((sizes >= self.large * target.numel()).sum()) < max(1, self.least):
            return False
        labels = cluster(prediction[:, foreground].T, count, self.seed)
        self.add("ari", adjusted_rand_index(labels, target[foreground]))
        return True


class SemanticScores(TaskMetric):
    """The scores of the metric `segmentation`, and the mean ce of all pixels."""

    target: ClassVar[str] = "segmentation"
    higher_is_better: ClassVar[Mapping[str, bool]] = {
        "ce": False,
        **dict.fromkeys(("miou", "pixel_accuracy", "mean_accuracy"), True),
    }

    def __init__(self, classes: Sequence[str] = ()) -> None:
        super().__init__(classes, registry().create("metric", "segmentation", classes=classes))
        self.scored = len(classes) or None  # of a decoder with more outputs than classes

    def add_image(self, prediction: Tensor, target: Tensor, known: Tensor) -> bool:
        """Logits [K, H, W] and class ids [H, W]."""
        pixels = float(known.sum())
        self.add("ce", float(cross_entropy(prediction[None], target[None])) * pixels, pixels)
        return True


class DepthScores(TaskMetric):
    """The scores of the metric `depth`, and mse over pixels."""

    target: ClassVar[str] = "depth"
    higher_is_better: ClassVar[Mapping[str, bool]] = {
        **dict.fromkeys(("mse", "rmse", "abs_rel", "log10", "silog"), False),
        **dict.fromkeys(("delta1", "delta2", "delta3"), True),
    }
    low, high = 1e-3, 10.0  # metres: the range that is scored

    def __init__(self, classes: Sequence[str] = ()) -> None:
        super().__init__(classes, registry().create("metric", "depth", low=self.low, high=self.high))

    def add_image(self, prediction: Tensor, target: Tensor, known: Tensor) -> bool:
        """Metres [1, H, W]; False without a known depth in the range that is scored."""
        depth = target[0][known]
        if not bool(((depth >= self.low) & (depth <= self.high)).any()):
            return False
        self.add("mse", float((prediction - target)[0][known].double().square().sum()), float(known.sum()))
        return True


class NormalScores(TaskMetric):
    """The scores of the metric `normals`."""

    target: ClassVar[str] = "normals"
    higher_is_better: ClassVar[Mapping[str, bool]] = {
        **dict.fromkeys(("rmse", "mean"), False),
        **dict.fromkeys(("delta1", "delta2", "delta3"), True),
    }

    def __init__(self, classes: Sequence[str] = ()) -> None:
        super().__init__(classes, registry().create("metric", "normals"))

    def add_image(self, prediction: Tensor, target: Tensor, known: Tensor) -> bool:
        """Vectors [3, H, W] of any length and unit normals [3, H, W]."""
        return True
