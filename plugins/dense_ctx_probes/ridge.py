"""Ridge regression in closed form: exact, incremental, no iterations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor

from dense_ctx.errors import InputError, NotFittedError
from dense_ctx.interfaces import DenseFeatures, Probe, Size, Task
from dense_ctx.numerics import Bias
from dense_ctx.persistence.tensors import require_state

from .ridge_stats import RidgeStats
from .targets import at_size, linear_scores, probabilities, rows_of


class RidgeProbe(Probe):
    """Regress one-hot classes, or values, on pixel features.

    Args:
        task: see `dense_ctx.Probe`.
        penalty: lambda on the Gram matrix divided by the number of pixels. The default, 1e-3, suits features of about
            unit length such as `upsample` gives; pixels weigh the same, so that a rare class must earn its place.
        bias: "free" (not penalised), "penalized" (FlowFeat) or "none" (LILA, eq. 2).
        mean: the Gram matrix is divided by the number of pixels (FlowFeat), or not (LILA, eq. 2).
    """

    file_args: ClassVar[Mapping[str, Any] | None] = {
        "penalty": (0.0, 1e9),
        "bias": frozenset(get_args(Bias)),
        "mean": bool,
    }

    def __init__(
        self, task: Task = "segmentation", penalty: float = 1e-3, bias: Bias = "free", mean: bool = True
    ) -> None:
        super().__init__(task)
        if bias not in get_args(Bias):
            raise InputError(f"bias={bias!r}: expected one of {', '.join(get_args(Bias))}")
        self.bias, self.mean = bias, mean
        if not penalty >= 0:
            raise InputError(f"penalty={penalty} is not at least 0")
        self.penalty = penalty
        self.stats_ = RidgeStats()
        self._coefficients: Tensor | None = None

    def partial_fit(self, features: DenseFeatures, targets: Tensor) -> RidgeProbe:
        """Add B images; the same as fitting all at once."""
        classes = 0 if self.stats_.cross is None else self.stats_.cross.shape[1]
        self.stats_.update(*rows_of(features, targets, self.task, classes))
        self._coefficients = None
        return self

    @property
    def coef_(self) -> Tensor:
        """[D + 1, K], the bias last; [D, K] without one."""
        if self._coefficients is None:
            self._coefficients = self.stats_.solve(self.penalty, bias=self.bias, mean=self.mean)
        return self._coefficients

    def predict(self, features: DenseFeatures, size: Size | None = None) -> Tensor:
        """[B, K, *size]: probabilities or values."""
        coefficients = self.coef_.to(features.pixels.device)
        pixels = features.pixels.float()
        scores = linear_scores(pixels, coefficients[: pixels.shape[1]])
        if self.bias != "none":
            scores = scores + coefficients[-1][:, None, None]
        scores = at_size(scores, size, pixels)
        return probabilities(scores) if self.task == "segmentation" else scores

    def state_dict(self) -> dict[str, Tensor]:
        """The sums, so that `partial_fit` can continue."""
        if self.stats_.gram is None or self.stats_.cross is None:
            raise NotFittedError("Nothing to save: call fit first")
        return {"gram": self.stats_.gram, "cross": self.stats_.cross}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the sums."""
        layout = {"gram": (torch.float64, ("d", "d")), "cross": (torch.float64, ("d", "K"))}
        require_state(state, layout, "The state is not that of a ridge probe")
        self.stats_.gram, self.stats_.cross = state["gram"].clone(), state["cross"].clone()
        self._coefficients = None
