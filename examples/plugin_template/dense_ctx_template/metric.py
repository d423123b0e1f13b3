"""A metric: the Dice coefficient."""

import torch

from dense_ctx import Metric, Scores
from dense_ctx.errors import InputError


class Dice(Metric):
    """Dice coefficient of each class over all pixels, 2 TP / (2 TP + FP + FN), and its mean over classes.

    A class that is neither annotated nor predicted is left out.

    Args:
        classes: names of the data set's classes.
        background: count class 0 too.
        options: conventions of a protocol's `scoring` that do not concern this metric.
    """

    target = "segmentation"
    higher_is_better = {"dice": True, "worst": True}  # noqa: RUF012  constant

    def __init__(self, classes=(), background=True, **options):
        super().__init__(classes, **options)
        self.first = 0 if background else 1
        self.images = 0
        self.counts = torch.zeros(3, len(self.classes), dtype=torch.int64)  # TP, predicted, annotated

    def update(self, prediction, target):
        """Add one image: class probabilities [K, H, W], labels int64 [H, W] with -1 ignored."""
        annotated = target >= 0
        predicted, labels = prediction.argmax(0)[annotated].cpu(), target[annotated].cpu()
        for row, ids in enumerate((labels[predicted == labels], predicted, labels)):
            self.counts[row] += ids.bincount(minlength=len(self.classes))
        self.images += 1

    def state(self):
        """The sums as JSON values: an interrupted evaluation reads them back."""
        return {"images": self.images, "counts": self.counts.tolist()}

    def merge(self, state):
        """Add the sums of another shard of the images."""
        self.images += state["images"]
        self.counts += torch.tensor(state["counts"])

    def compute(self):
        """The scores, and the Dice coefficient of each class; InputError if no pixel was annotated."""
        if not self.counts[2].any():
            raise InputError(f"None of {self.images} images has an annotated pixel")
        names = self.classes[self.first :]
        parts = {
            name: 2 * hits / (predicted + annotated)
            for name, (hits, predicted, annotated) in zip(names, self.counts.T[self.first :].tolist(), strict=True)
            if predicted + annotated
        }
        if not parts:
            raise InputError("Only the background is annotated; set background=True, or score other images")
        values = {"dice": sum(parts.values()) / len(parts), "worst": min(parts.values())}
        return Scores(values, parts, {"images": self.images, "pixels": int(self.counts[2].sum())})
