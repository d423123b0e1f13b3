"""A metric: the share of pixels whose class is right."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dense_ctx.errors import InputError
from dense_ctx.interfaces import Metric, Scores


class Share(Metric):
    """Right pixels over annotated ones, and the opposite; parts: the share of each class.

    Args:
        classes: names of the data set's classes.
        border: this many pixels along the image's border do not count.
    """

    target = "segmentation"
    higher_is_better = {"share": True, "wrong": False}  # noqa: RUF012  the same for all

    def __init__(self, classes: Sequence[str] = (), border: int = 0) -> None:
        super().__init__(classes)
        self.border, self.images = border, 0
        self.right = torch.zeros(len(self.classes), dtype=torch.int64)
        self.pixels = torch.zeros(len(self.classes), dtype=torch.int64)

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add one image: probabilities [K, H, W] and labels [H, W]."""
        height, width = target.shape
        inside = (slice(self.border, height - self.border), slice(self.border, width - self.border))
        labels, classes = target[inside].cpu(), prediction.argmax(0).cpu()[inside]
        self.pixels += labels[labels >= 0].bincount(minlength=len(self.classes))
        self.right += labels[(labels >= 0) & (labels == classes)].bincount(minlength=len(self.classes))
        self.images += 1

    def state(self) -> Any:
        """The counts as JSON values."""
        return {"images": self.images, "right": self.right.tolist(), "pixels": self.pixels.tolist()}

    def merge(self, state: Mapping[str, Any]) -> None:
        """Add another's counts."""
        self.images += state["images"]
        self.right += torch.tensor(state["right"])
        self.pixels += torch.tensor(state["pixels"])

    def compute(self) -> Scores:
        """The scores over everything added."""
        pixels = int(self.pixels.sum())
        if not pixels:
            raise InputError(f"None of {self.images} images has an annotated pixel inside of the border")
        share = int(self.right.sum()) / pixels
        parts = {n: r / p for n, r, p in zip(self.classes, self.right.tolist(), self.pixels.tolist(), strict=True) if p}
        return Scores({"share": share, "wrong": 1 - share}, parts, {"images": self.images, "pixels": pixels})
