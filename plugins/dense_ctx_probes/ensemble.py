"""Neighbours and kernel ridge regression on one bank of cells, averaged, and refined at the edges of the image."""

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

from .bank import CellBank, sampled
from .guided_filter import refined
from .targets import at_size, probabilities

_UNIFORM = 0.05
_FLOOR = 1e-3  # of a probability before its logarithm: one member alone cannot rule a class out
_ROWS = 128  # cells compared with the bank at once: their cosines stay near the processor
_WIDE = 1 << 12  # on an accelerator, where each comparison is a launch
_COLD = 1 / 60  # temperature at which exp(cosine / temperature) of -1 to 1 is far within float32, also their sums
_PART = 1 << 11  # cells of the bank whose kernel is held at once
_SLACK = 1e-6  # added to each landmark's kernel with itself, times their number: directions below it are rounding
_RADIUS, _EPSILON = 2, 2e-4


class EnsembleProbe(CellBank):
    """Two readings of the same cells, and the colours of the image.

    Cells of the bank vote with softmax(cosine / temperature): an object whose look changes keeps neighbours. Ridge
    regression with a kernel weighs channels by what tells the classes apart: exp(gamma (cos - 1)), in the span of
    landmarks (Nystrom; Williams and Seeger 2001); a class weighs by the square root of its size. In segmentation
    their log-probabilities are averaged, in regression their values. A class's share of the examples says little about
    its share of another image, so that of the neighbours is moved towards 1 / K (prior correction; Saerens et al.
    2002). Both read the bank's principal `channels`, in which a class weighs as in the regression, so that those of a
    small object are among them.

    Neighbours need a bank that shows all there is to see, which masks give and strokes do not: their weight is
    (1 - weight) a^2 / (a^2 + area^2), a the annotated area of all images in patches, the positions of the deepest map.
    From strokes, cells of the bank are single pixels; the more is annotated, the larger, up to those of a prediction.

    Probabilities of cells are refined by a guided filter (`guided_filter`) where the features carry the image.

    Args:
        task, temperature, memory, seed: see `CellBank`.
        stride: pixels per side of a cell; default the least that gives an image at most 8,192 (annotated) cells.
        weight: of the kernel regression where masks are whole, 0 to 1.
        area: annotated patches at which the neighbours have half of their weight; 0: they always have all.
        uniform: how far the prior is moved towards that of equal classes, 0 to 1; default 0.05. In segmentation only.
        landmarks: cells that span the regression, as many of each class; at least one of each.
        gamma: of the kernel, above 0.
        penalty: of the regression, on the mean square error.
        channels: principal ones that are read; all where there are fewer.
        keys: cells of the bank that are read; of more, a seeded sample with as many of each class, weighted so that it
            stands for all.
        radius: of the filter's windows, in half cells; default 2; 0: no filter. In segmentation only.
        epsilon: of the filter, added to the variance of colours; default 2e-4. In segmentation only.

    Raises:
        InputError: an argument out of its range.
        ConfigError: `uniform`, `radius` or `epsilon` for a regression.
    """

    cells = 8192
    read = staticmethod(sampled)
    file_args: ClassVar[Mapping[str, Any] | None] = {
        **(CellBank.file_args or {}),
        "weight": (0.0, 1.0),
        "area": (0.0, 1e9),
        "uniform": (0.0, 1.0),
        "landmarks": range(1, 1 << 14),
        "gamma": (0.0, 1e6),
        "penalty": (0.0, 1e9),
        "channels": range(1, 1 << 14),
        "keys": range(1, 1 << 26),
        "radius": range(65),
        "epsilon": (0.0, 1e6),
    }

    def __init__(
        self,
        task: Task = "segmentation",
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
        channels: int = 96,
        keys: int = 4096,
        radius: int | None = None,
        epsilon: float | None = None,
        device_memory: str | int | None = None,
    ) -> None:
        super().__init__(task, temperature, stride, memory, seed, device_memory)
        without = {"uniform": uniform, "radius": radius, "epsilon": epsilon}
        if task == "regression" and (idle := [name for name, value in without.items() if value is not None]):
            raise ConfigError(
                f"{' and '.join(idle)} would have no effect with task=regression, which has no class probabilities: "
                "leave it out"
            )
        uniform = _UNIFORM if uniform is None else uniform
        radius, epsilon = _RADIUS if radius is None else radius, _EPSILON if epsilon is None else epsilon
        if not (0 <= weight <= 1 and 0 <= uniform <= 1 and 0 <= area < math.inf):
            raise InputError(f"weight={weight}, uniform={uniform}: both 0 to 1; area={area}: at least 0")
        if not (gamma > 0 and penalty > 0 and min(landmarks, channels, keys) >= 1):
            raise InputError(
                f"gamma={gamma}, penalty={penalty}, landmarks={landmarks}, channels={channels}, keys={keys}: "
                "all above 0"
            )
        if not (epsilon > 0 and radius >= 0):
            raise InputError(f"radius={radius}: at least 0; epsilon={epsilon}: above 0")
        self.weight, self.area, self.uniform = weight, area, uniform
        self.landmarks, self.gamma, self.penalty, self.channels, self.keys = landmarks, gamma, penalty, channels, keys
        self.radius, self.epsilon = radius if task == "segmentation" else 0, epsilon
        self.annotated_ = 0.0  # patches
        self._readings: tuple[Tensor, ...] | None = None

    def partial_fit(self, features: DenseFeatures, targets: Tensor) -> EnsembleProbe:
        """Add the cells of B images that hold a labelled pixel."""
        super().partial_fit(features, targets)
        valid = targets >= 0 if self.task == "segmentation" else targets.isfinite().all(1)
        patches = features.patches[:, 0].numel() * features.extent[0] * features.extent[1]
        self.annotated_ += float(valid.float().mean()) * patches
        self._readings = None
        return self

    def _cells(self, features: DenseFeatures, targets: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = super()._cells(features, targets)
        return functional.normalize(keys, dim=1), values

    def _step(self, grid: Tensor, share: float) -> int:
        return self.stride or math.ceil(math.sqrt(grid.shape[-2] * grid.shape[-1] * share / self.cells))

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
        self._readings = None

    def predict(self, features: DenseFeatures, size: Size | None = None) -> Tensor:
        """[B, K, *size]: probabilities or values."""
        if self.keys_ is None:
            raise NotFittedError("Nothing in memory: call fit first")
        pixels = features.pixels
        step = self._step(pixels, 1.0)
        cells = self.read(pixels.float(), step)
        rows = functional.normalize(rearrange(cells, "b d h w -> (b h w) d"), dim=1)
        readings = self._resident.of(rows.device, *self.readings)
        answers = self._read(rows, *(tensor.to(rows.device) for tensor in readings))
        batch, _, height, _ = cells.shape
        scores = rearrange(answers, "(b h w) k -> b k h w", b=batch, h=height)
        if self.task == "segmentation":
            scores = scores.softmax(1)
        if self.radius and features.image is not None:
            image = at_size(features.image.to(scores), None, pixels)
            scores = refined(scores, image, step, self.radius, self.epsilon)
        return at_size(scores, size, pixels)

    def _read(
        self, rows: Tensor, axes: Tensor, keys: Tensor, values: Tensor, landmarks: Tensor, coefficients: Tensor,
        correction: Tensor,
    ) -> Tensor:  # fmt: skip
        """Log-probabilities up to a constant, or values, [Q, K], of rows [Q, D]; the rest as `readings`."""
        rows = rows @ axes
        parts = rows.split(_ROWS if rows.device.type == "cpu" else _WIDE)
        near = torch.cat([self._votes(part, keys, values) for part in parts])
        fit = torch.cat([kernel(part, landmarks, self.gamma) @ coefficients[:-1] for part in parts]) + coefficients[-1]
        return averaged(near, fit, correction, self.share, self.task)

    def _votes(self, rows: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Values [Q, K] of keys by softmax(cosine / temperature) for rows [Q, c]; of classes up to a factor a row."""
        weights = (rows / self.temperature) @ keys.T
        if self.temperature < _COLD:
            weights = weights.softmax(1)
        else:  # in range without a shift; and their sum divides a few numbers in place of all
            weights.exp_()
        votes = (values.T @ weights.T).T  # of few columns several times as fast as weights @ values
        return votes if self.task == "segmentation" else votes / weights.sum(1, keepdim=True)

    @property
    def share(self) -> float:
        """Weight of the neighbours; the regression has the rest."""
        return (1 - self.weight) / (1 + (self.area / self.annotated_) ** 2)

    @property
    def readings(self) -> tuple[Tensor, ...]:
        """Axes [D, c]; on them the keys [M, c] that are read; their values [M, K], times the cells that each stands
        for; landmarks [L, c] of the regression and their coefficients [L + 1, K], the bias last; what corrects the
        prior, a factor of each class's votes [K].
        """
        if self.keys_ is None:
            raise NotFittedError("Nothing in memory: call fit first")
        if self._readings is None:
            index, counts, groups = self._sample()
            values, sizes = self.values_[index], self.values_.sum(0)
            weights = counts
            if self.task == "segmentation":
                weights = counts * (values * sizes.clamp_min(1e-6).rsqrt()).sum(1)
            weights = weights / weights.sum()
            keys = self.keys_[index]
            axes = principal_axes(keys, weights, self.channels)
            keys = keys @ axes
            prior = (sizes / len(self.values_)).clamp_min(1e-6)
            correction = 1 - self.uniform + self.uniform / (len(prior) * prior)
            regression = self._regress(keys, values, weights, groups)
            outputs = values * counts[:, None] if self.task == "segmentation" else values
            self._readings = (axes, keys, outputs, *regression, correction)
        return self._readings

    def _sample(self) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Cells of the bank that are read, how many each stands for, and each class's places among them.

        Classes have as many; what a small one leaves goes to the others. A regression's cells are one class.
        """
        first = self.values_.argmax(1) if self.task == "segmentation" else torch.zeros(len(self.values_)).long()
        classes = [cells for label in first.unique() for cells in (first == label).nonzero(as_tuple=True)]
        room, counts = self.keys, torch.zeros(len(first))
        generator = torch.Generator().manual_seed(self.seed)
        for number, cells in enumerate(sorted(classes, key=len)):
            share = min(len(cells), max(1, room // (len(classes) - number)))
            room -= share
            counts[cells[torch.randperm(len(cells), generator=generator)[:share]]] = len(cells) / share
        index = counts.nonzero()[:, 0]
        groups = [(first[index] == first[cells[0]]).nonzero()[:, 0] for cells in classes]
        return index, counts[index], groups

    def _regress(self, keys: Tensor, values: Tensor, weights: Tensor, groups: list[Tensor]) -> tuple[Tensor, Tensor]:
        room = max(1, self.landmarks // len(groups))
        landmarks = torch.cat([keys[_spread(group, room)] for group in groups])
        gram = kernel(landmarks, landmarks, self.gamma).double()
        gram.diagonal().add_(_SLACK * len(gram))
        # what makes the span of the landmarks orthonormal, so that float32 is enough for the sums
        basis = torch.linalg.inv(torch.linalg.cholesky(gram)).T
        system = torch.zeros(len(gram) + 1, len(gram) + 1, dtype=torch.float64)
        right = torch.zeros(len(gram) + 1, values.shape[1], dtype=torch.float64)
        for part, target, weight in zip(*(x.split(_PART) for x in (keys, values, weights)), strict=True):
            lifted = functional.pad(kernel(part, landmarks, self.gamma) @ basis.float(), (0, 1), value=1.0)
            weighted = (lifted * weight[:, None]).T
            system += weighted @ lifted
            right += weighted @ target
        system.diagonal()[:-1] += self.penalty  # the bias, last, is free
        solution = torch.linalg.solve(system, right)
        return landmarks, torch.cat([basis @ solution[:-1], solution[-1:]]).float()


def principal_axes(keys: Tensor, weights: Tensor, count: int) -> Tensor:
    """Orthonormal [D, c] on which weighted keys [M, D] keep most of their squares; all D where they are no more."""
    if keys.shape[1] <= count:
        return torch.eye(keys.shape[1])
    squares = (keys * weights[:, None]).T @ keys
    axes: Tensor = torch.linalg.eigh(squares.double())[1][:, -count:]
    return axes.float()


def kernel(rows: Tensor, landmarks: Tensor, gamma: float) -> Tensor:
    """exp(gamma (cos - 1)) [Q, L] of rows [Q, c] and landmarks [L, c]."""
    return (gamma * (rows @ landmarks.T - 1)).exp()


def _spread(group: Tensor, count: int) -> Tensor:
    """At most so many of the indices, evenly spaced."""
    return group if len(group) <= count else group[torch.arange(count) * len(group) // count]


def averaged(near: Tensor, fit: Tensor, correction: Tensor, share: float, task: str) -> Tensor:
    """Both readings as one: log-probabilities up to a constant, or values, [Q, K].

    Args:
        near: of the neighbours, of classes up to a factor a row. fit: of the regression. Both [Q, K].
        correction: of the neighbours' prior, [K]. share: their weight.
    """
    if task == "segmentation":
        # corrected before the floor: after it a class of few pixels would have votes where it has none
        near, fit = _log_shares(probabilities(near * correction)), _log_shares(probabilities(fit))
    return share * near + (1 - share) * fit


def _log_shares(shares: Tensor) -> Tensor:
    """Logarithm of probabilities [N, K], none below the floor."""
    shares = shares.clamp_min(_FLOOR)
    return (shares / shares.sum(1, keepdim=True)).log()
