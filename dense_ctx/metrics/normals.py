"""Surface normals: angular error, pooled over the pixels of all images (Fouhey et al., ICCV 2013; Probe3D)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import InputError

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
            raise InputError(f"Normals are [3, H, W] alike; got {list(prediction.shape)} and {list(target.shape)}")
        known = target.isfinite().all(0)
        p = functional.normalize(prediction[:, known].double(), dim=0)
        if not bool(p.isfinite().all()):
            raise InputError("The predicted normals hold NaN or infinity")
        cosine = (p * functional.normalize(target[:, known].double(), dim=0)).sum(0)
        degrees = torch.rad2deg(torch.acos(cosine.clamp(-1, 1)))
        self.count += degrees.numel()
        self.squares += float(degrees.square().sum())
        self.total += float(degrees.sum())
        counts = [below + int((degrees < limit).sum()) for below, limit in zip(self.below, THRESHOLDS, strict=True)]
        self.below = (counts[0], counts[1], counts[2])
        return self

    def add(self, other: NormalErrors) -> NormalErrors:
        """Join two sums."""
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
