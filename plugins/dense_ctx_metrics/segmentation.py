"""Semantic segmentation: confusion matrix, IoU, and the matching and averaging rules of published evaluators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from dense_ctx.errors import InputError
from dense_ctx.gateway import gateway
from dense_ctx.interfaces import Metric, Scores

Matching = Literal["none", "hungarian", "many_to_one"]
Absent = Literal["left_out", "zero"]


@gateway
def confusion_matrix(
    prediction: Tensor, target: Tensor, classes: int, ignore_index: int | None = 255, clusters: int | None = None
) -> Tensor:
    """Count pixels: int64 [classes, clusters], rows are the true class, columns the predicted class or cluster.

    Pixels whose target is `ignore_index` are left out.

    Args:
        clusters: number of predicted ids, where they are not the classes; default `classes`.

    Raises:
        InputError: different shapes, or an id outside 0..classes-1 (of predictions: 0..clusters-1).
    """
    if prediction.shape != target.shape:
        raise InputError(f"Prediction {list(prediction.shape)} and target {list(target.shape)} have different shapes")
    clusters = classes if clusters is None else clusters
    keep = torch.ones_like(target, dtype=torch.bool) if ignore_index is None else target != ignore_index
    prediction, target = prediction[keep].long(), target[keep].long()
    for name, values, count in (("Prediction", prediction, clusters), ("Target", target, classes)):
        if values.numel() and (int(values.min()) < 0 or int(values.max()) >= count):
            raise InputError(
                f"{name} ids run from {int(values.min())} to {int(values.max())}; expected 0 to {count - 1}"
            )
    return torch.bincount(target * clusters + prediction, minlength=classes * clusters).reshape(classes, clusters)


def iou(confusion: Tensor) -> Tensor:
    """Intersection over union of each class, float64 [classes]; NaN for a class in neither prediction nor target."""
    confusion = confusion.double()
    hit = confusion.diagonal()
    return hit / (confusion.sum(0) + confusion.sum(1) - hit)


@dataclass(frozen=True)
class Matched:
    """A confusion matrix after predicted classes or clusters are matched to true classes.

    classes: int64 [clusters], the true class that each predicted one counts as, -1: none.
    tp, fp, fn: int64 [classes], true positives, false positives and false negatives. A prediction matched to no class
        is a false negative of its true class and a false positive of none.
    """

    classes: Tensor
    tp: Tensor
    fp: Tensor
    fn: Tensor

    @property
    def iou(self) -> Tensor:
        """Of each true class, float64 [classes]; NaN for one in neither prediction nor target."""
        return self.tp.double() / (self.tp + self.fp + self.fn)


def match(confusion: Tensor, matching: Matching = "none") -> Matched:
    """Match the predicted columns of a confusion matrix [classes, clusters] to its true rows.

    Args:
        matching: "none" (supervised: class i is class i); "hungarian" (one to one, the largest sum of IoUs, as
            open-hummingbird's evaluation does by default; of more clusters than classes some are left over);
            "many_to_one" (each predicted class or cluster counts as the true class that it overlaps best).

    Raises:
        InputError: "none" with a matrix that is not square, or an unknown matching.
    """
    count, clusters = confusion.shape
    classes = torch.full((clusters,), -1, dtype=torch.int64)
    total = confusion.double()
    pairs = total / (total.sum(1)[:, None] + total.sum(0)[None] - total).clamp_min(1e-8)  # [true, predicted]
    if matching == "none":
        if count != clusters:
            raise InputError(
                f"{clusters} clusters are not {count} classes: match them, matching=hungarian or many_to_one"
            )
        classes = torch.arange(count)
    elif matching == "hungarian":
        true, predicted = linear_sum_assignment(pairs.cpu().numpy(), maximize=True)
        classes[torch.as_tensor(predicted)] = torch.as_tensor(true)
    elif matching == "many_to_one":
        classes = pairs.argmax(0).cpu()
    else:
        raise InputError(f"matching={matching!r}: expected 'none', 'hungarian' or 'many_to_one'")
    merged = confusion.new_zeros(count, count + 1)
    merged.index_add_(1, torch.where(classes < 0, count, classes).to(confusion.device), confusion)
    inside = merged[:, :count]
    tp = inside.diagonal()
    return Matched(classes, tp, inside.sum(0) - tp, merged.sum(1) - tp)


@dataclass(frozen=True)
class Segmentation:
    """Scores of a confusion matrix.

    miou: mean IoU over classes; pixel_accuracy: share of labelled pixels that are correct;
    mean_accuracy: mean over classes of the share of their pixels that are correct; per_class: IoU, NaN if absent;
    matched: the matching of predicted to true classes, and the counts of each true class after it.
    """

    miou: float
    pixel_accuracy: float
    mean_accuracy: float
    per_class: tuple[float, ...]
    matched: Matched

    @classmethod
    def of(cls, confusion: Tensor, matching: Matching = "none", absent: Absent = "left_out") -> Segmentation:
        """Score a matrix [classes, clusters] of counts.

        Args:
            matching: see `match`.
            absent: a class in neither prediction nor target is left out of the mean, or counts 0 (open-hummingbird).

        Raises:
            InputError: no labelled pixel at all.
        """
        total = confusion.double()
        if not bool(total.any()):
            raise InputError("No labelled pixel was scored: every target is ignored")
        matched = match(confusion, matching)
        scores = matched.iou
        mean = scores.nan_to_num(0.0).mean() if absent == "zero" else scores.nanmean()
        hits = matched.tp.double()
        recalls = hits / total.sum(1)
        return cls(
            float(mean),
            float(hits.sum() / total.sum()),
            float(recalls.nanmean()),
            tuple(scores.tolist()),
            matched,
        )


def harmonic(seen: float, unseen: float) -> float:
    """Harmonic mean of the mIoU over seen and over unseen classes; 0 if both are 0, NaN if either is."""
    return 0.0 if seen + unseen == 0 else 2 * seen * unseen / (seen + unseen)


class SegmentationMetric(Metric):
    """mIoU and accuracies over the labelled pixels of all images together; parts: the IoU of each class.

    Args:
        classes: names of the data set's classes, at least one.
        matching: how predicted classes are matched to true ones, see `match`.
        absent: how a class in neither prediction nor target is counted, see `Segmentation.of`.
        clusters: number of channels of the predictions, if they are clusters instead of classes; requires a matching.

    Raises:
        InputError: no class, an unknown matching or absent, or clusters without a matching.
    """

    target: ClassVar[str] = "segmentation"
    higher_is_better: ClassVar[Mapping[str, bool]] = {"miou": True, "pixel_accuracy": True, "mean_accuracy": True}

    def __init__(
        self,
        classes: Sequence[str] = (),
        matching: Matching = "none",
        absent: Absent = "left_out",
        clusters: int | None = None,
    ) -> None:
        super().__init__(classes)
        if not self.classes:
            raise InputError("Segmentation is scored over named classes; the data set names none")
        for option, value, literal in (("matching", matching, Matching), ("absent", absent, Absent)):
            if value not in get_args(literal):
                raise InputError(f"{option}={value!r}; expected one of {', '.join(get_args(literal))}")
        if clusters is not None and (clusters < 1 or matching == "none"):
            raise InputError(f"clusters={clusters}: at least 1, with matching=hungarian or many_to_one")
        self.matching, self.absent = matching, absent
        self.clusters = len(self.classes) if clusters is None else clusters
        self.images = 0
        self.confusion = torch.zeros(len(self.classes), self.clusters, dtype=torch.int64)

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add probabilities [K, H, W], K at most the classes or clusters; labels int64 [H, W], -1 ignored."""
        labels = prediction.argmax(0).cpu()
        self.confusion += confusion_matrix(labels, target.cpu(), len(self.classes), -1, self.clusters)
        self.images += 1

    def state(self) -> Any:
        """{"images": count, "confusion": rows of pixel counts}."""
        return {"images": self.images, "confusion": self.confusion.tolist()}

    def merge(self, state: Any) -> None:
        """Add the counts of another."""
        confusion = torch.tensor(state["confusion"], dtype=torch.int64)
        if confusion.shape != self.confusion.shape:
            raise InputError(f"Counts {list(confusion.shape)} are not {list(self.confusion.shape)}: other classes")
        self.images += state["images"]
        self.confusion += confusion

    def compute(self) -> Scores:
        """The scores; a class in neither prediction nor target has the part None."""
        scores = Segmentation.of(self.confusion, self.matching, self.absent)
        values = {name: getattr(scores, name) for name in SegmentationMetric.higher_is_better}
        ious = (None if iou != iou else iou for iou in scores.per_class)  # NaN is not itself
        counts = {"images": self.images, "pixels": int(self.confusion.sum())}
        return Scores(values, dict(zip(self.classes, ious, strict=True)), counts)


class ZeroShotMetric(SegmentationMetric):
    """As `SegmentationMetric`, and the mIoU over seen classes, over unseen ones, and their harmonic mean.

    Args:
        classes, matching, absent: as there; seen and unseen are never matched, and leave absent classes out.
        unseen: classes without labels for the probe; if there are none, "unseen" and "harmonic" are NaN.

    Raises:
        InputError: an unseen class is not in `classes`.
    """

    higher_is_better: ClassVar[Mapping[str, bool]] = {
        **SegmentationMetric.higher_is_better,
        "seen": True,
        "unseen": True,
        "harmonic": True,
    }

    def __init__(
        self,
        classes: Sequence[str] = (),
        matching: Matching = "none",
        absent: Absent = "left_out",
        unseen: Sequence[str] = (),
    ) -> None:
        super().__init__(classes, matching, absent)
        unknown = [name for name in unseen if name not in self.classes]
        if unknown:
            raise InputError(f"unseen names classes that the data set lacks: {', '.join(unknown)}")
        self.unseen = tuple(unseen)

    def compute(self) -> Scores:
        """The scores of `SegmentationMetric`, and seen, unseen and harmonic."""
        scores = super().compute()
        each = iou(self.confusion)
        held_out = torch.tensor([name in self.unseen for name in self.classes])
        seen, unseen = float(each[~held_out].nanmean()), float(each[held_out].nanmean())
        values = {**scores.values, "seen": seen, "unseen": unseen, "harmonic": harmonic(seen, unseen)}
        return Scores(values, scores.parts, scores.counts)
