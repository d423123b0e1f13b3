"""Surface normals: angular error, pooled over the pixels of all images (Fouhey et al., ICCV 2013; Probe3D)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from dense_ctx.errors import InputError
from dense_ctx.interfaces import Metric, Scores

THRESHOLDS = (11.25, 22.5, 30.0)  # degrees


@dataclass
class NormalErrors:
    """Sums over pixels; add images with `update`, read `scores`.

    squares, total: of the angles, degrees^2 and degrees. below: pixels under each threshold.
    """

    count: int = 0
    squares: float = 0.0
    total: float = 0.0
    below: tuple[int, int, int] = (0, 0, 0)

    def update(self, prediction: Tensor, target: Tensor) -> NormalErrors:
        """Add an image.

        Args:
            prediction: [3, H, W], any length above 0 (it is normalised).
            target: [3, H, W], unit length, NaN where unknown.

        Raises:
            InputError: different shapes, or a prediction that is not finite.
        """
        if prediction.shape != target.shape or target.ndim != 3 or len(target) != 3:
            raise InputError(f"Normals are [3, H, W] of equal size; got {list(prediction.shape)}, {list(target.shape)}")
        valid = target.isfinite().all(0)
        p = functional.normalize(prediction[:, valid].double(), dim=0)
        if not bool(p.isfinite().all()):
            raise InputError("The predicted normals hold NaN or infinity")
        cosine = (p * functional.normalize(target[:, valid].double(), dim=0)).sum(0)
        degrees = torch.rad2deg(torch.acos(cosine.clamp(-1, 1)))
        self.count += degrees.numel()
        self.squares += float(degrees.square().sum())
        self.total += float(degrees.sum())
        counts = [below + int((degrees < limit).sum()) for below, limit in zip(self.below, THRESHOLDS, strict=True)]
        self.below = (counts[0], counts[1], counts[2])
        return self

    def add(self, other: NormalErrors) -> NormalErrors:
        """Add the sums of another."""
        self.count += other.count
        self.squares += other.squares
        self.total += other.total
        self.below = (
            self.below[0] + other.below[0],
            self.below[1] + other.below[1],
            self.below[2] + other.below[2],
        )
        return self

    def scores(self) -> dict[str, float]:
        """rmse and mean in degrees; delta1..3: share of pixels under 11.25, 22.5 and 30 degrees.

        Raises:
            InputError: no known pixel was added.
        """
        if not self.count:
            raise InputError("No normal was scored: every target is unknown (NaN)")
        shares = {f"delta{i + 1}": n / self.count for i, n in enumerate(self.below)}
        return {"rmse": math.sqrt(self.squares / self.count), "mean": self.total / self.count, **shares}


class NormalsMetric(Metric):
    """Angular errors over the known pixels of all images together, see `NormalErrors`."""

    target: ClassVar[str] = "normals"
    higher_is_better: ClassVar[Mapping[str, bool]] = {
        "rmse": False,
        "mean": False,
        "delta1": True,
        "delta2": True,
        "delta3": True,
    }

    def __init__(self, classes: Sequence[str] = ()) -> None:
        super().__init__(classes)
        self.images = 0
        self.errors = NormalErrors()

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add normals [3, H, W] of any length; pixels with a target of NaN are not scored."""
        self.errors.update(prediction.cpu(), target.cpu())
        self.images += 1

    def state(self) -> Any:
        """{"images": count, "sums": [pixels, squares, total, [pixels below each threshold]]}."""
        sums = self.errors
        return {"images": self.images, "sums": [sums.count, sums.squares, sums.total, list(sums.below)]}

    def merge(self, state: Any) -> None:
        """Add the sums of another."""
        count, squares, total, (first, second, third) = state["sums"]
        self.images += state["images"]
        self.errors.add(NormalErrors(count, squares, total, (first, second, third)))

    def compute(self) -> Scores:
        """The errors in degrees and the shares below 11.25, 22.5 and 30 degrees."""
        return Scores(self.errors.scores(), counts={"images": self.images, "pixels": self.errors.count})
