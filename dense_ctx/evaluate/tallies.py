"""Running sums of a metric over images, exact to add up in any split of the work."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..metrics import DepthErrors, NormalErrors, Segmentation, confusion_matrix, harmonic, matched_iou
from .protocol import Protocol

Scores = tuple[dict[str, float], dict[str, Any], dict[str, int]]  # metrics; per part; how many of what


class Tally(ABC):
    """Sums over scored images; `state` is JSON, `merge` adds another's."""

    @abstractmethod
    def add(self, prediction: Tensor, target: Tensor) -> None:
        """Score one image: prediction [K, H, W] (probabilities or values), target as `datasets.Sample`'s."""

    @abstractmethod
    def state(self) -> Any:
        """The sums, as JSON values."""

    @abstractmethod
    def merge(self, state: Any) -> None:
        """Add sums."""

    @abstractmethod
    def scores(self) -> Scores:
        """Metrics over everything added."""


class SegmentationTally(Tally):
    """A confusion matrix."""

    def __init__(self, protocol: Protocol, classes: Sequence[str]) -> None:
        if not classes:
            raise InputError(f"{protocol.id} segments, but the data set names no classes")
        self.scoring, self.classes, self.zero_shot = protocol.scoring, tuple(classes), protocol.task == "zero-shot"
        self.images = 0
        self.confusion = torch.zeros(len(classes), len(classes), dtype=torch.int64)
        unknown = [name for name in self.scoring.unseen if name not in self.classes]
        if unknown:
            raise InputError(f"{protocol.id}: unseen classes the data set has not: {', '.join(unknown)}")

    def add(self, prediction: Tensor, target: Tensor) -> None:
        """As `Tally.add`."""
        labels = prediction.argmax(0).cpu()
        self.confusion += confusion_matrix(labels, target, len(self.classes), ignore_index=-1)
        self.images += 1

    def state(self) -> Any:
        """As `Tally.state`."""
        return {"images": self.images, "confusion": self.confusion.tolist()}

    def merge(self, state: Any) -> None:
        """As `Tally.merge`."""
        self.images += state["images"]
        self.confusion += torch.tensor(state["confusion"], dtype=torch.int64)

    def scores(self) -> Scores:
        """As `Tally.scores`."""
        found = Segmentation.of(self.confusion, self.scoring.matching, self.scoring.absent)
        values = {
            "miou": found.miou,
            "pixel_accuracy": found.pixel_accuracy,
            "mean_accuracy": found.mean_accuracy,
        }
        if self.zero_shot:
            each = matched_iou(self.confusion)
            held = torch.tensor([name in self.scoring.unseen for name in self.classes])
            seen, unseen = float(each[~held].nanmean()), float(each[held].nanmean())
            values |= {"seen": seen, "unseen": unseen, "harmonic": harmonic(seen, unseen)}
        parts = dict(zip(self.classes, found.per_class, strict=True))
        return values, parts, {"images": self.images, "pixels": int(self.confusion.sum())}


class DepthTally(Tally):
    """Means over images of each image's errors."""

    def __init__(self, protocol: Protocol) -> None:
        self.scoring = protocol.scoring
        self.images = self.skipped = 0
        self.sums: dict[str, float] = {}

    def add(self, prediction: Tensor, target: Tensor) -> None:
        """As `Tally.add`."""
        scoring = self.scoring
        errors = DepthErrors.of(prediction.cpu(), target, low=scoring.low, high=scoring.high, align=scoring.align)
        if errors is None:
            self.skipped += 1
            return
        self.images += 1
        for key, value in errors.to_dict().items():
            self.sums[key] = self.sums.get(key, 0.0) + value

    def state(self) -> Any:
        """As `Tally.state`."""
        return {"images": self.images, "skipped": self.skipped, "sums": self.sums}

    def merge(self, state: Any) -> None:
        """As `Tally.merge`."""
        self.images += state["images"]
        self.skipped += state["skipped"]
        for key, value in state["sums"].items():
            self.sums[key] = self.sums.get(key, 0.0) + value

    def scores(self) -> Scores:
        """As `Tally.scores`."""
        if not self.images:
            raise InputError(f"No depth was scored: none of {self.skipped} images has a known depth in range")
        means = {key: value / self.images for key, value in self.sums.items()}
        return means, {}, {"images": self.images, "images_without_depth": self.skipped}


class NormalsTally(Tally):
    """Angular errors over the pixels of all images."""

    def __init__(self) -> None:
        self.images = 0
        self.errors = NormalErrors()

    def add(self, prediction: Tensor, target: Tensor) -> None:
        """As `Tally.add`."""
        self.errors.update(prediction.cpu(), target)
        self.images += 1

    def state(self) -> Any:
        """As `Tally.state`."""
        e = self.errors
        return {"images": self.images, "sums": [e.count, e.squares, e.total, list(e.below)]}

    def merge(self, state: Mapping[str, Any]) -> None:
        """As `Tally.merge`."""
        self.images += state["images"]
        count, squares, total, below = state["sums"]
        self.errors.add(NormalErrors(count, squares, total, (below[0], below[1], below[2])))

    def scores(self) -> Scores:
        """As `Tally.scores`."""
        return self.errors.scores(), {}, {"images": self.images, "pixels": self.errors.count}


def tally(protocol: Protocol, classes: Sequence[str]) -> Tally:
    """An empty tally for the protocol's task."""
    if protocol.task == "depth":
        return DepthTally(protocol)
    if protocol.task == "normals":
        return NormalsTally()
    return SegmentationTally(protocol, classes)
