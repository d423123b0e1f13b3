"""The mean of the trained weights over the steps: quieter than the weights of the last step, at no cost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from .config import Average
from .step import TrainStep


class Averaged:
    """Keeps the mean of what trains. Buffers (BatchNorm's statistics) are not averaged: they stay the last step's.

    Attributes:
        tensors: the mean, by the parameter's name in the `TrainStep`; empty before `spec.start`.
    """

    def __init__(self, step: TrainStep, spec: Average) -> None:
        self.spec = spec
        self.parameters = {name: p for name, p in step.named_parameters() if p.requires_grad}
        self.tensors: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self, done: int) -> None:
        """Take in the weights after `done` steps."""
        if not self.spec.start or done < self.spec.start:
            return
        if not self.tensors:
            self.tensors = {name: p.detach().clone() for name, p in self.parameters.items()}
        # a plain mean until it spans as many steps as the exponential one will: no step of the beginning outweighs
        share = max(1 / (done - self.spec.start + 1), 1 - self.spec.momentum if self.spec.momentum else 0)
        torch._foreach_lerp_(list(self.tensors.values()), [self.parameters[name] for name in self.tensors], share)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the weights and their mean; nothing where there is none yet."""
        for name, mean in self.tensors.items():
            weight = self.parameters[name]
            kept = weight.clone()
            weight.copy_(mean)
            mean.copy_(kept)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """The modules have the mean inside, bitwise the weights they had afterwards."""
        self.swap()
        try:
            yield
        finally:
            self.swap()
