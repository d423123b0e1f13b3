"""Ridge regression in closed form, PCA, random states: numerics that several parts use."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from operator import attrgetter
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .errors import InputError, NonFiniteError, NotFittedError
from .gateway import gateway

Bias = Literal["free", "penalized", "none"]

# If a Cholesky factor's diagonal spans more than this, about half of float32's digits are lost: solve in float64
_FLOAT32_SPAN = 1e3


def require_finite(what: str, advice: str = "", **tensors: Tensor | None) -> None:
    """Refuse NaN and infinity, at the cost of one sum over each tensor and one wait for the device.

    Args:
        what: the tensors are of. advice: what to do, for the message.

    Raises:
        NonFiniteError: names the tensors.
    """
    floats = {k: t.detach() for k, t in tensors.items() if t is not None and t.is_floating_point() and t.numel()}
    if not floats:
        return
    small, first = (torch.float16, torch.bfloat16), next(iter(floats.values()))
    sums = [t.sum(dtype=torch.float32 if t.dtype in small else None).to(first.device).float() for t in floats.values()]
    if bool(torch.stack(sums).isfinite().all()):
        return
    names = [name for name, tensor in floats.items() if not bool(tensor.isfinite().all())]  # a sum may overflow itself
    if names:
        shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if names[4:] else "")
        raise NonFiniteError(f"{what}: NaN or infinity in {shown}" + (f". {advice}" if advice else ""))


@gateway
def ridge_fit(
    features: Tensor,
    targets: Tensor,
    penalty: float = 0.1,
    *,
    bias: Bias = "free",
    mean: bool = True,
    weights: Tensor | None = None,
) -> Tensor:
    """Ridge regression in closed form: W = argmin |X W - Y|^2 [/ N] + penalty |W|^2 (LILA, arXiv 2604.26488, eq. 2).

    Solved by Cholesky factorisation of the d x d system; differentiable in features and targets. For float32 input an
    ill-conditioned system is solved in float64 and the result cast back.

    Args:
        features: X, [..., N, d].
        targets: Y, [..., N, m].
        penalty: lambda, at least 0.
        bias: append a column of ones that is not penalised ("free"), one that is, as in FlowFeat ("penalized"), or
            none, as in eq. 2 ("none").
        mean: divide the data term by N (FlowFeat), or not (eq. 2).
        weights: [..., N], at least 0: weight of each row; `mean` then divides by their sum instead of N.

    Returns:
        [..., d, m], or [..., d + 1, m] with the bias last; for `ridge_apply`.

    Raises:
        InputError: shapes do not match, the penalty is negative, or the system is singular (penalty 0).
        NonFiniteError: NaN or infinity in what is given.
    """
    if features.ndim < 2 or features.shape[:-1] != targets.shape[:-1]:
        raise InputError(f"features [..., N, d] and targets [..., N, m] do not match: {_shapes(features, targets)}")
    if not penalty >= 0:
        raise InputError(f"penalty={penalty} is not at least 0")
    try:
        solution = _ridge(features, targets, penalty, bias, mean, weights)
    except _IllConditioned:
        require_finite("A ridge regression is given numbers that are not", features=features, targets=targets)
        wide = None if weights is None else weights.double()
        try:
            solution = _ridge(features.double(), targets.double(), penalty, bias, mean, wide)
        except _IllConditioned:
            raise InputError(
                f"The ridge system is singular at penalty={penalty}: features [N, d] = {list(features.shape[-2:])} are "
                "linearly dependent. Ask for a penalty above 0"
            ) from None
    return solution.to(features.dtype)


@gateway
def ridge_apply(features: Tensor, coefficients: Tensor) -> Tensor:
    """X W (+ bias): apply the result of `ridge_fit` to features [..., N, d]; returns [..., N, m]."""
    dims = features.shape[-1]
    if coefficients.shape[-2] == dims:
        return features @ coefficients
    if coefficients.shape[-2] != dims + 1:
        raise InputError(f"features and coefficients do not match: {_shapes(features, coefficients)}")
    return features @ coefficients[..., :-1, :] + coefficients[..., -1:, :]


class RidgeStats:
    """Sufficient statistics of a ridge regression, accumulated in batches: X'X and X'Y in float64, with a bias column.

    The solution equals that of all rows at once. Columns of Y may be added later (a new class); earlier rows count as
    0 in them.
    """

    def __init__(self) -> None:
        self.gram: Tensor | None = None
        self.cross: Tensor | None = None

    @property
    def count(self) -> float:
        """Number of rows added."""
        return 0.0 if self.gram is None else float(self.gram[-1, -1])

    def update(self, features: Tensor, targets: Tensor) -> None:
        """Add rows: features [N, d], targets [N, m]."""
        if features.ndim != 2 or len(features) != len(targets):
            raise InputError(f"features [N, d] and targets [N, m] do not match: {_shapes(features, targets)}")
        size = features.shape[1] + 1
        if self.gram is None or self.cross is None:
            self.gram = torch.zeros(size, size, dtype=torch.float64)
            self.cross = torch.zeros(size, targets.shape[1], dtype=torch.float64)
        if len(self.gram) != size:
            raise InputError(f"features have {size - 1} dimensions; earlier ones had {len(self.gram) - 1}")
        if targets.shape[1] > self.cross.shape[1]:
            self.cross = functional.pad(self.cross, (0, targets.shape[1] - self.cross.shape[1]))
        # float32 products over a bounded number of rows, summed in float64
        for x, y in zip(features.split(1 << 15), targets.split(1 << 15), strict=True):
            x = functional.pad(x.float(), (0, 1), value=1.0)
            self.gram += (x.T @ x).double().cpu()
            self.cross[:, : y.shape[1]] += (x.T @ y.float()).double().cpu()

    def solve(self, penalty: float, *, bias: Bias = "free", mean: bool = True) -> Tensor:
        """Coefficients [d + 1, m] with the bias last, or [d, m] without one, float32; arguments as `ridge_fit`.

        Raises:
            NotFittedError: no rows yet.
            InputError: the system is singular. NonFiniteError: NaN or infinity in a row.
        """
        if self.gram is None or self.cross is None or self.count == 0:
            raise NotFittedError("No data yet: call update first")
        rows, total = len(self.gram) - (bias == "none"), self.count if mean else 1.0
        system = self.gram[:rows, :rows] / total
        system.diagonal()[: rows - (bias == "free")] += penalty
        try:
            return _solve(system, self.cross[:rows] / total).float()
        except _IllConditioned:
            require_finite("The sums of the ridge regression", "Look at the features", gram=self.gram, cross=self.cross)
            raise InputError(f"The ridge system is singular at penalty={penalty}; ask for a larger one") from None


class _IllConditioned(Exception):
    pass


def _ridge(x: Tensor, y: Tensor, penalty: float, bias: Bias, mean: bool, weights: Tensor | None) -> Tensor:
    if bias != "none":
        x = functional.pad(x, (0, 1), value=1.0)
    weighted = x if weights is None else x * weights[..., None]
    gram, cross = weighted.mT @ x, weighted.mT @ y
    if mean:
        total = x.shape[-2] if weights is None else weights.sum(-1)[..., None, None]
        gram, cross = gram / total, cross / total
    ridge = gram.new_full((gram.shape[-1],), penalty)
    if bias == "free":
        ridge[-1] = 0
    return _solve(gram + ridge.diag(), cross)


def _solve(system: Tensor, cross: Tensor) -> Tensor:
    factor, info = torch.linalg.cholesky_ex(system)
    diagonal = factor.detach().diagonal(dim1=-2, dim2=-1)
    span = diagonal.amax(-1) / diagonal.amin(-1)
    limit = _FLOAT32_SPAN if system.dtype == torch.float32 else 1e7
    if bool((info > 0).any()) or not bool((span < limit).all()):  # negated so that NaN fails too
        raise _IllConditioned
    return torch.cholesky_solve(cross, factor)


@gateway
def pca(rows: Tensor, components: int = 3) -> tuple[Tensor, Tensor]:
    """Principal components of rows [N, d]: their mean [d] and axes [d, components], in order of decreasing variance.

    From the eigendecomposition of the covariance, so the same input gives the same axes; the largest entry of each
    axis is positive.
    """
    if rows.ndim != 2 or len(rows) == 0:
        raise InputError(f"rows are [N, d] with N at least 1; got {list(rows.shape)}")
    mean = rows.mean(0)
    centred = (rows - mean).double()
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    axes = vectors.flip(1)[:, : min(components, rows.shape[1])]
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    return mean, (axes * largest.sign()).to(rows.dtype)


def _shapes(*tensors: Tensor) -> str:
    return ", ".join(str(list(tensor.shape)) for tensor in tensors)


@contextmanager
def preserve_generators() -> Iterator[None]:
    """Restore the global random states of Python, NumPy and torch (on the CPU) at the end of the context."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


# where PyTorch decides what becomes of float32 products: on CUDA, and with oneDNN on the CPU
_FLOAT32 = ("cuda.matmul", "cudnn.conv", "cudnn.rnn", "mkldnn.matmul", "mkldnn.conv")


def float32_settings() -> dict[str, Any]:
    """What float32 products are computed in ("ieee", "tf32"; "none": as PyTorch likes), and whether cuDNN may vary."""
    words = {name: attrgetter(name)(torch.backends).fp32_precision for name in _FLOAT32}
    cudnn = torch.backends.cudnn
    return {**words, "cudnn.benchmark": cudnn.benchmark, "cudnn.deterministic": cudnn.deterministic}


@contextmanager
def arithmetic(tf32: bool = False) -> Iterator[None]:
    """Within the context float32 products and convolutions are float32's, or on CUDA TF32's, the same each time.

    PyTorch's settings hold for the whole process, may be anyone's, and on CUDA begin with TF32 in convolutions.
    """
    cudnn, before, legacy = torch.backends.cudnn, float32_settings(), None
    with suppress(RuntimeError):  # it has two sets of names, and complains of the older where they disagree
        legacy = torch.get_float32_matmul_precision(), cudnn.allow_tf32
    word = {True: "tf32", False: "ieee"}
    ours = {name: word[tf32 and not name.startswith("mkldnn")] for name in _FLOAT32}
    try:
        _set_float32(
            {**ours, "cudnn.benchmark": False, "cudnn.deterministic": True}, ("high" if tf32 else "highest", tf32)
        )
        yield
    finally:
        _set_float32(before, legacy)


def _set_float32(settings: dict[str, Any], legacy: tuple[str, bool] | None) -> None:
    if legacy is not None:
        torch.set_float32_matmul_precision(legacy[0])
        torch.backends.cudnn.allow_tf32 = legacy[1]
    for name in _FLOAT32:
        attrgetter(name)(torch.backends).fp32_precision = settings[name]
    torch.backends.cudnn.benchmark = settings["cudnn.benchmark"]
    torch.backends.cudnn.deterministic = settings["cudnn.deterministic"]
