"""Two probes that predict the class with the nearest mean: one in closed form, one trained by steps."""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from dense_ctx.errors import InputError, NotFittedError
from dense_ctx.interfaces import DenseFeatures, FitContext, Probe, Size, Task
from dense_ctx.persistence.tensors import Spec, require_state


class StrangerMean(Probe):
    """The mean feature of each class, exact over all pixels; knows nothing of `train`, so it leaves `configure`."""

    specs: ClassVar[dict[str, Spec]] = {"means": (torch.float32, ("K", "D")), "counts": (torch.float32, ("K",))}

    def __init__(self, task: Task = "segmentation") -> None:
        if task != "segmentation":
            raise InputError(f"{type(self).__name__} predicts classes; task={task!r}")
        super().__init__(task)
        self.means_ = torch.zeros(0, 0)  # [K, D]
        self.counts_ = torch.zeros(0)  # [K], pixels of each class

    def partial_fit(self, features: DenseFeatures, targets: Tensor) -> "StrangerMean":
        """Move the means of the classes that occur."""
        pixels = functional.interpolate(features.pixels, targets.shape[-2:], mode="bilinear", align_corners=False)
        rows, labels = pixels.movedim(1, -1)[targets >= 0].cpu(), targets[targets >= 0].cpu()
        more = (int(labels.max()) + 1 if len(labels) else 0) - len(self.counts_)
        if more > 0:
            self.counts_ = torch.cat([self.counts_, torch.zeros(more)])
            self.means_ = torch.cat([self.means_.reshape(-1, rows.shape[1]), torch.zeros(more, rows.shape[1])])
        for label in labels.unique().tolist():
            own = rows[labels == label]
            self.means_[label] += self.rate(float(self.counts_[label]), len(own)) * (own.mean(0) - self.means_[label])
            self.counts_[label] += len(own)
        return self

    def rate(self, before: float, now: int) -> float:
        """Share of the way to the mean of a batch."""
        return now / (before + now)

    def predict(self, features: DenseFeatures, size: Size | None = None) -> Tensor:
        """Probabilities [B, K, *size], from the squared distances to the means."""
        if not len(self.counts_):
            raise NotFittedError(f"{type(self).__name__}.predict was called before partial_fit")
        pixels = features.pixels.movedim(1, -1).cpu()
        distances = torch.cdist(pixels.flatten(0, 2), self.means_).square().masked_fill(self.counts_ == 0, torch.inf)
        shares = (-distances).softmax(-1).reshape(*pixels.shape[:3], -1).movedim(-1, 1)
        return shares if size is None else functional.interpolate(shares, size, mode="bilinear", align_corners=False)

    def state_dict(self) -> dict[str, Tensor]:
        """Means and counts."""
        return {"means": self.means_, "counts": self.counts_}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take them back."""
        require_state(state, self.specs, f"the state of another probe than {type(self).__name__}")
        self.means_, self.counts_ = state["means"].clone(), state["counts"].clone()


class StrangerSteps(StrangerMean):
    """Means moved by gradient descent on the squared distance: halfway at first, less and less up to the last step."""

    specs: ClassVar[dict[str, Spec]] = {**StrangerMean.specs, "step": (torch.float32, (1,))}

    def __init__(self, task: Task = "segmentation") -> None:
        super().__init__(task)
        self.steps: int | None = None
        self.step_ = torch.zeros(1)

    def configure(self, context: FitContext) -> None:
        """Take the number of steps; the base class refuses the rest."""
        self.steps = context.steps
        super().configure(replace(context, steps=None))

    def partial_fit(self, features: DenseFeatures, targets: Tensor) -> "StrangerSteps":
        """Take one step."""
        if self.steps is not None and self.step_ >= self.steps:
            raise InputError(f"step {int(self.step_) + 1} of {self.steps}: more steps than the context told")
        super().partial_fit(features, targets)
        self.step_ += 1
        return self

    def rate(self, before: float, now: int) -> float:
        """All the way to the first mean of a class, else the learning rate."""
        remainder = 1.0 if self.steps is None else 1 - float(self.step_) / self.steps
        return 0.5 * remainder if before else 1.0

    def state_dict(self) -> dict[str, Tensor]:
        """The means, and how many steps there were."""
        return {**super().state_dict(), "step": self.step_}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take them back."""
        super().load_state_dict(state)
        self.step_ = state["step"].clone()
