"""The average of the trained weights over the steps, which removes the noise of the last ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from .config import Average
from .step import TrainStep


class Averaged:
    """The running mean of the trained parameters. Buffers (BatchNorm's statistics) stay those of the last step.

    Attributes:
        tensors: the mean by the parameter's name in the `TrainStep`; empty before step `spec.start`.
    """

    def __init__(self, step: TrainStep, spec: Average) -> None:
        self.spec = spec
        self.parameters = {name: p for name, p in step.named_parameters() if p.requires_grad}
        self.tensors: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Include the weights after step number `step`, from 1."""
        if not self.spec.start or step < self.spec.start:
            return
        if not self.tensors:
            self.tensors = {name: p.detach().clone() for name, p in self.parameters.items()}
        # a plain mean up to the exponential mean's span, so that no early step dominates
        share = max(1 / (step - self.spec.start + 1), 1 - self.spec.momentum if self.spec.momentum else 0)
        torch._foreach_lerp_(list(self.tensors.values()), [self.parameters[name] for name in self.tensors], share)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the weights and their mean; does nothing before step `spec.start`."""
        for name, mean in self.tensors.items():
            weight = self.parameters[name]
            current = weight.clone()
            weight.copy_(mean)
            mean.copy_(current)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the context the modules have the averaged weights; afterwards bitwise their own."""
        self.swap()
        try:
            yield
        finally:
            self.swap()
