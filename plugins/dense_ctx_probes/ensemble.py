"""Nearest neighbours and kernel ridge regression on one bank of cells, averaged."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from dense_ctx.errors import CheckpointError, ConfigError, InputError, NotFittedError
from dense_ctx.interfaces import DenseFeatures, Size, Task
from dense_ctx.persistence.tensors import require_state

from .knn import KnnProbe, pooled
from .retrieval_search import nearest
from .targets import at_size, probabilities

CELLS = 8192  # of an image

_UNIFORM = 0.05
_FLOOR = 1e-3  # of a probability before its logarithm: one member alone cannot rule a class out
_ROWS = 1 << 11  # cells whose kernel, and whose neighbours' votes, are held at once
_RANK = 1e-6  # of the largest eigenvalue: directions of the landmarks' span below it are rounding


class EnsembleProbe(KnnProbe):
    """Two readings of the same cells: `knn`, and ridge regression with a kernel.

    Neighbours follow an object whose look changes; the regression weighs channels by what tells the classes apart. In
    segmentation their log-probabilities are averaged, in regression their values. The kernel is exp(gamma (cos - 1)),
    in the span of landmarks (Nystrom; Williams and Seeger 2001); a class weighs by the square root of its size.
    A class's share of the examples says little about its share of another image, so that of the neighbours is moved
    towards 1 / K (prior correction; Saerens et al. 2002).

    Neighbours need a bank that shows all there is to see, which masks give and strokes do not: their weight is
    (1 - weight) a^2 / (a^2 + area^2), a the annotated area of all images in patches, the positions of the deepest map.
    From strokes, cells of the bank are single pixels; the more is annotated, the larger, up to those of a prediction.

    Args:
        task, k, temperature, memory, seed: see `KnnProbe`.
        stride: pixels per side of a cell; default the least that gives an image at most 8,192 (annotated) cells.
        weight: of the kernel regression where masks are whole, 0 to 1.
        area: annotated patches at which the neighbours have half of their weight; 0: they always have all.
        uniform: how far the prior is moved towards that of equal classes, 0 to 1; default 0.05. In segmentation only.
        landmarks: cells that span the regression, as many of each class; at least one of each.
        gamma: of the kernel, above 0.
        penalty: of the regression, on the mean square error.

    Raises:
        InputError: an argument out of its range.
        ConfigError: `uniform` for a regression.
    """

    file_args: ClassVar[Mapping[str, Any] | None] = {
        **(KnnProbe.file_args or {}),
        "weight": (0.0, 1.0),
        "area": (0.0, 1e9),
        "uniform": (0.0, 1.0),
        "landmarks": range(1, 1 << 14),
        "gamma": (0.0, 1e6),
        "penalty": (0.0, 1e9),
    }

    def __init__(
        self,
        task: Task = "segmentation",
        k: int = 30,
        temperature: float = 0.02,
        stride: int | None = None,
        memory: int = 65_536,
        seed: int | None = None,
        weight: float = 0.4,
        area: float = 20.0,
        uniform: float | None = None,
        landmarks: int = 512,
        gamma: float = 1.0,
        penalty: float = 1e-4,
        device_memory: str | int | None = None,
    ) -> None:
        super().__init__(task, k, temperature, stride, memory, seed, device_memory)
        if task == "regression" and uniform is not None:
            raise ConfigError(
                "uniform would have no effect with task=regression, which has no class priors: leave it out"
            )
        uniform = _UNIFORM if uniform is None else uniform
        if not (0 <= weight <= 1 and 0 <= uniform <= 1 and 0 <= area < math.inf):
            raise InputError(f"weight={weight}, uniform={uniform}: both 0 to 1; area={area}: at least 0")
        if not (gamma > 0 and penalty > 0 and landmarks >= 1):
            raise InputError(f"gamma={gamma}, penalty={penalty}, landmarks={landmarks}: all above 0")
        self.weight, self.area, self.uniform = weight, area, uniform
        self.landmarks, self.gamma, self.penalty = landmarks, gamma, penalty
        self.annotated_ = 0.0  # patches
        self._regression: tuple[Tensor, Tensor, Tensor, Tensor] | None = None

    def partial_fit(self, features: DenseFeatures, targets: Tensor) -> EnsembleProbe:
        """Add the cells of B images that hold a labelled pixel."""
        super().partial_fit(features, targets)
        valid = targets >= 0 if self.task == "segmentation" else targets.isfinite().all(1)
        patches = features.patches[:, 0].numel() * features.extent[0] * features.extent[1]
        self.annotated_ += float(valid.float().mean()) * patches
        self._regression = None
        return self

    def _cells(self, features: DenseFeatures, targets: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = super()._cells(features, targets)
        return functional.normalize(keys, dim=1), values

    def _step(self, grid: Tensor, share: float) -> int:
        return self.stride or math.ceil(math.sqrt(grid.shape[-2] * grid.shape[-1] * share / CELLS))

    def state_dict(self) -> dict[str, Tensor]:
        """The memory bank, and how much was annotated."""
        return {**super().state_dict(), "annotated": torch.tensor(self.annotated_, dtype=torch.float64)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` gave."""
        own = {key: state[key] for key in ("annotated",) if key in state}
        require_state(own, {"annotated": (torch.float64, ())}, "The state is not that of an ensemble probe")
        if float(own["annotated"]) <= 0:
            raise CheckpointError(f"The state's annotated area is {float(own['annotated'])} patches; expected above 0")
        super().load_state_dict({key: value for key, value in state.items() if key not in own})
        self.annotated_ = float(own["annotated"])
        self._regression = None

    def predict(self, features: DenseFeatures, size: Size | None = None) -> Tensor:
        """[B, K, *size]: probabilities or values."""
        if self.keys_ is None:
            raise NotFittedError("Nothing in memory: call fit first")
        cells = pooled(features.pixels.float(), self._step(features.pixels, 1.0))
        rows = functional.normalize(rearrange(cells, "b d h w -> (b h w) d"), dim=1)
        keys, values, *fit = self._resident.of(rows.device, self.keys_, self.values_, *self.regression)
        neighbours = nearest(rows, keys, self.k)
        here = tuple(tensor.to(rows.device) for tensor in fit)
        split = zip(*(tensor.split(_ROWS) for tensor in (rows, *neighbours)), strict=True)
        parts = [self._read(queries, cosines, near, values, here) for queries, cosines, near in split]
        answers = torch.cat(parts)
        batch, _, height, _ = cells.shape
        scores = at_size(rearrange(answers, "(b h w) k -> b k h w", b=batch, h=height), size, features.pixels)
        return scores.softmax(1) if self.task == "segmentation" else scores

    def _read(
        self, rows: Tensor, cosines: Tensor, neighbours: Tensor, values: Tensor, regression: tuple[Tensor, ...]
    ) -> Tensor:
        """Log-probabilities up to a constant, or values, [Q, K], of rows [Q, d] and their neighbours [Q, k]."""
        landmarks, basis, coefficients, correction = regression
        votes = values[neighbours.to(values.device)].to(rows.device)
        near = torch.einsum("qk,qkm->qm", (cosines / self.temperature).softmax(1), votes)
        fit = self._lift(rows, landmarks, basis) @ coefficients
        if self.task == "segmentation":
            near = log_shares(near) + correction
            fit = log_shares(probabilities(fit))
        return self.share * near + (1 - self.share) * fit

    @property
    def share(self) -> float:
        """Weight of the neighbours; the regression has the rest."""
        return (1 - self.weight) / (1 + (self.area / self.annotated_) ** 2)

    @property
    def regression(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Landmarks [L, d], what makes their span orthonormal [L, r], coefficients [r + 1, K], the bias last, and what
        corrects the prior [K].
        """
        if self.keys_ is None:
            raise NotFittedError("Nothing in memory: call fit first")
        if self._regression is None:
            self._regression = (*self._regress(self.keys_, self.values_), self._correction())
        return self._regression

    def _correction(self) -> Tensor:
        """[K]: logarithm of the prior moved towards 1 / K, over the examples' own."""
        prior = self.values_.mean(0).clamp_min(1e-6)
        return ((1 - self.uniform) * prior + self.uniform / len(prior)).log() - prior.log()

    def _regress(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weights = torch.ones(len(keys))
        groups = [torch.arange(len(keys))]
        if self.task == "segmentation":
            size = values.sum(0)
            weights = (values * size.clamp_min(1e-6).rsqrt()).sum(1)
            first = values.argmax(1)
            groups = [group for label in range(values.shape[1]) if len(group := (first == label).nonzero()[:, 0])]
        room = max(1, self.landmarks // len(groups))
        landmarks = torch.cat([keys[_spread(group, room)] for group in groups])
        eigenvalues, vectors = torch.linalg.eigh(_kernel(landmarks, landmarks, self.gamma).double())
        keep = eigenvalues > _RANK * eigenvalues[-1]
        basis = (vectors[:, keep] * eigenvalues[keep].rsqrt()).float()
        lifted = torch.cat([self._lift(part, landmarks, basis) for part in keys.split(_ROWS)]).double()
        weighted = lifted * (weights / weights.sum())[:, None]
        system = weighted.T @ lifted
        system.diagonal()[:-1] += self.penalty  # the bias, last, is free
        return landmarks, basis, torch.linalg.solve(system, weighted.T @ values.double()).float()

    def _lift(self, rows: Tensor, landmarks: Tensor, basis: Tensor) -> Tensor:
        return functional.pad(_kernel(rows, landmarks, self.gamma) @ basis, (0, 1), value=1.0)


def _kernel(rows: Tensor, landmarks: Tensor, gamma: float) -> Tensor:
    return (gamma * (rows @ landmarks.T - 1)).exp()


def _spread(group: Tensor, count: int) -> Tensor:
    """At most so many of the indices, evenly spaced."""
    return group if len(group) <= count else group[torch.arange(count) * len(group) // count]


def log_shares(shares: Tensor) -> Tensor:
    """Logarithm of probabilities [N, K], none below the floor."""
    shares = shares.clamp_min(_FLOOR)
    return (shares / shares.sum(1, keepdim=True)).log()
