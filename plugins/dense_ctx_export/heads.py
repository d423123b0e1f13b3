"""Fitted probes as modules that a graph can hold: the same numbers, the state as constants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from dense_ctx_probes.bank import CellBank
from dense_ctx_probes.ensemble import EnsembleProbe, averaged, kernel
from dense_ctx_probes.knn import KnnProbe
from dense_ctx_probes.linear import LinearProbe
from dense_ctx_probes.ridge import RidgeProbe
from dense_ctx_probes.targets import probabilities
from torch import Tensor, nn
from torch.nn import functional

from dense_ctx import InContext
from dense_ctx.errors import ConfigError, NotFittedError

_KEYS = 4096  # compared at once: the cosines of 16,384 cells with them take 268 MB


def head_of(context: InContext, task: str) -> PixelHead | CellHead:
    """The module of a fitted context.

    Raises:
        NotFittedError: before `fit`. ConfigError: of a probe that has none.
    """
    probe = context.probe_
    if probe is None:
        raise NotFittedError("The context is not fitted: call fit(images, targets) first")
    context.targets_.require_two_classes()
    # by the exact class: one that inherits from these may predict otherwise
    build = _HEADS.get(type(probe))
    if build is not None:
        return build(probe, task)
    raise ConfigError(
        f"The probe {context.method!r} cannot be exported; ridge, linear, knn and ensemble can: fit one of these, or "
        "export the model's features"
    )


class PixelHead(nn.Module):
    """Linear scores of each pixel: weight [D, K], bias [K]."""

    cells = 0
    stride: int | None = None

    def __init__(self, weight: Tensor, bias: Tensor, task: str, softmax: bool) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach().clone().T[:, :, None, None].contiguous())
        self.register_buffer("bias", bias.detach().clone())
        self.task, self.softmax = task, softmax

    def forward(self, pixels: Tensor) -> Tensor:
        """[1, D, H, W] to probabilities or values [1, K, H, W]."""
        scores = functional.conv2d(pixels, self.get_buffer("weight"), self.get_buffer("bias"))
        if self.task == "segmentation":
            return scores.softmax(1) if self.softmax else probabilities(scores)
        return functional.normalize(scores, dim=1) if self.task == "normals" else scores


class CellHead(nn.Module):
    """Reads cells of an image, rows [Q, D], as scores [Q, K].

    Attributes: cells, stride: of the probe, most of an image and pixels a side. radius: see `Facts.filter_radius`.
    """

    radius: int | None = None
    epsilon = 0.0

    def __init__(self, probe: CellBank, task: str) -> None:
        super().__init__()
        if probe.keys_ is None:
            raise NotFittedError("Nothing in memory: call fit first")
        self.task, self.cells, self.stride, self.temperature = task, probe.cells, probe.stride, probe.temperature

    def finish(self, scores: Tensor) -> Tensor:
        """Enlarged scores [1, K, H, W] as predictions."""
        return functional.normalize(scores, dim=1) if self.task == "normals" else scores


class KnnHead(CellHead):
    """`dense_ctx_probes.knn.KnnProbe`: keys [M, D] of unit length, and values [M, K]."""

    def __init__(self, probe: KnnProbe, task: str) -> None:
        super().__init__(probe, task)
        keys = cast(Tensor, probe.keys_)
        self.register_buffer("keys", functional.normalize(keys, dim=1))
        self.register_buffer("values", probe.values_.clone())
        self.k = min(probe.k, len(keys))

    def nearest(self, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Cosines and indices [Q, k] of the k nearest keys of rows [Q, D] of unit length."""
        best: Tensor | None = None
        index: Tensor | None = None
        start = 0
        for keys in self.get_buffer("keys").split(max(_KEYS, k)):
            scores, order = (rows @ keys.T).topk(min(k, len(keys)), dim=1)
            order = order + start
            start += len(keys)
            if best is not None and index is not None:
                order = torch.cat([index, order], 1)
                scores, place = torch.cat([best, scores], 1).topk(k, dim=1)
                order = order.gather(1, place)
            best, index = scores, order
        if best is None or index is None:
            raise NotFittedError("Nothing in memory: call fit first")
        return best, index

    def gap(self, rows: Tensor) -> Tensor:
        """How much nearer than the next the last neighbour that votes is [Q], of rows [Q, D]; infinite if all vote."""
        if self.k == len(self.get_buffer("keys")):
            return torch.full((len(rows),), torch.inf)
        best, _ = self.nearest(functional.normalize(rows, dim=1), self.k + 1)
        return best[:, -2] - best[:, -1]

    def forward(self, rows: Tensor) -> Tensor:
        """The values of the k nearest keys by softmax(cosine / temperature)."""
        best, index = self.nearest(functional.normalize(rows, dim=1), self.k)
        weights = (best / self.temperature).softmax(1)
        return (weights[:, :, None] * self.get_buffer("values")[index]).sum(1)


class EnsembleHead(CellHead):
    """`dense_ctx_probes.ensemble.EnsembleProbe`: its neighbours, its kernel regression and its filter."""

    names = ("axes", "keys", "values", "landmarks", "coefficients", "correction")

    def __init__(self, probe: EnsembleProbe, task: str) -> None:
        super().__init__(probe, task)
        for name, tensor in zip(self.names, probe.readings, strict=True):
            self.register_buffer(name, tensor.clone())
        self.gamma, self.share = probe.gamma, probe.share
        self.radius, self.epsilon = probe.radius, probe.epsilon

    def forward(self, rows: Tensor) -> Tensor:
        """Probabilities, or values."""
        axes, keys, values, landmarks, coefficients, correction = map(self.get_buffer, self.names)
        rows = functional.normalize(rows, dim=1) @ axes
        near = ((rows / self.temperature) @ keys.T).softmax(1) @ values
        fit = kernel(rows, landmarks, self.gamma) @ coefficients[:-1] + coefficients[-1]
        scores = averaged(near, fit, correction, self.share, self.task)
        return scores.softmax(1) if self.task == "segmentation" else scores


def _ridge(probe: RidgeProbe, task: str) -> PixelHead:
    coefficients = probe.coef_
    free = probe.bias != "none"
    bias = coefficients[-1] if free else torch.zeros(coefficients.shape[1])
    return PixelHead(coefficients[:-1] if free else coefficients, bias, task, softmax=False)


_HEADS: dict[type, Callable[[Any, str], PixelHead | CellHead]] = {
    RidgeProbe: _ridge,
    LinearProbe: lambda probe, task: PixelHead(probe.coef_[0], probe.coef_[1], task, softmax=True),
    EnsembleProbe: EnsembleHead,
    KnnProbe: KnnHead,
}
