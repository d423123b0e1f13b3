"""Recursive normalised cut of patch features (Shi and Malik 2000), as in DiffCut, without dense decompositions.

A graph joins all patches with weight (cosine, scaled to [0, 1] over the image) ^ alpha. It is split in two by the
second eigenvector of its normalised Laplacian, and each side again, while the cut's value stays below tau.

Two things make it fast. The vector comes from Lanczos iterations, which need only products with the weights. And the
value of a cut is bounded below by the second eigenvalue, so a part that will not be split is recognised after few
iterations, before its vector has converged: most attempted cuts are of that kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from dense_ctx.errors import InputError
from dense_ctx.interfaces import Size

THRESHOLDS = 100
_DENSE = 192  # nodes up to which the dense decomposition is faster
STEPS = 240  # of Lanczos, at most
_PATIENCE = 16  # Lanczos steps before a part may be declared indivisible


@dataclass(frozen=True)
class Cut:
    """An attempted split.

    value: of the normalised cut, in 0..2; for a rejected cut possibly a lower bound.
    nodes: number of nodes of the part. side: the upper side, bool [N] over all nodes; None if rejected.
    """

    value: float
    nodes: int
    side: Tensor | None


def affinity(features: Tensor, alpha: float = 10.0) -> Tensor:
    """Weights [N, N] of rows [N, C]: cosines scaled to [0, 1] by their minimum and maximum, to the power alpha.

    Raises:
        InputError: there is no row, or NaN or infinity.
    """
    if features.ndim != 2 or not len(features) or not bool(features.isfinite().all()):
        raise InputError(f"features are finite rows [N, C]; got {list(features.shape)}, or NaN or infinity among them")
    rows = functional.normalize(features.float(), dim=1)
    weights = rows @ rows.T
    low, high = weights.aminmax()
    if float(high - low) < 1e-6:  # all rows are alike: nothing to cut
        return torch.ones_like(weights)
    weights = weights.sub_(low).div_(high - low)
    return _power(weights, alpha)


def _power(x: Tensor, exponent: float) -> Tensor:
    if exponent != int(exponent) or not 1 <= exponent <= 64:
        return x.pow(exponent)
    remaining, result = int(exponent), None
    while remaining:  # repeated squaring, several times as fast as pow
        if remaining & 1:
            result = x if result is None else result * x
        remaining >>= 1
        if remaining:
            x = x * x
    return x if result is None else result


def recursive_cut(
    weights: Tensor, tau: float = 0.5, official_quirk: bool = False, exact: bool = False
) -> tuple[Tensor, list[Cut]]:
    """Split a graph of weights [N, N] until no part has a cut below tau.

    Args:
        tau: upper bound of the value of an accepted cut.
        official_quirk: as DiffCut's code: a node with a weight of exactly zero to any other of the graph leaves every
            cut below the top (at least two patches of an image, because of the scaling to [0, 1]; more where a high
            alpha underflows), and pairs are still tried. What is left out is labelled by `assemble_clusters`.
        exact: dense decompositions throughout, as a reference.

    Returns:
        Part of each node, int64 [N], from 0; and the attempted cuts, in order.

    Raises:
        InputError: the weights are not square, or negative.
    """
    if weights.ndim != 2 or weights.shape[0] != weights.shape[1] or not len(weights) or bool((weights < 0).any()):
        raise InputError(f"weights are [N, N], at least 0; got {list(weights.shape)}")
    count, least = len(weights), 2 if official_quirk else 3
    below = zero_free(weights).cpu() if official_quirk else torch.ones(count, dtype=torch.bool)
    labels = torch.zeros(count, dtype=torch.int64)
    cuts: list[Cut] = []
    parts = 0
    waiting = [(torch.arange(count), weights)]
    while waiting:
        nodes, within = waiting.pop()
        value, side = (float("inf"), None) if len(nodes) < least else best_cut(within, tau, exact)
        if len(nodes) >= least:
            full = None
            if side is not None:
                side = side.cpu()
                full = torch.zeros(count, dtype=torch.bool)
                full[nodes[side]] = True
            cuts.append(Cut(value, len(nodes), full))
        if side is None:
            labels[nodes] = parts
            parts += 1
            continue
        for part in (~side, side):  # the upper side is popped first
            index = (part & below[nodes]).nonzero()[:, 0]
            local = index.to(within.device)
            inner = within[local][:, local]
            # the many small parts are faster on the CPU than as sequential kernels of an accelerator
            waiting.append((nodes[index], inner.cpu() if len(index) <= _DENSE else inner))
    if official_quirk:
        labels = assemble_clusters([cut.side for cut in cuts if cut.side is not None], count)
    return labels.to(weights.device), cuts


def zero_free(weights: Tensor) -> Tensor:
    """bool [N]: the nodes of a graph [N, N] without a weight of exactly zero."""
    return (weights > 0).all(1)


def assemble_clusters(sides: Sequence[Tensor], count: int) -> Tensor:
    """Labels int64 [count], from 0, of nodes by the upper sides, bool [count] each, that hold them.

    As DiffCut's function of this name: each side, in the order of acceptance, adds one more than the largest sum so
    far, in float32. A node left out of the cuts below some part keeps that part's sum, and so has the label of what is
    never on an upper side below it. From about 24 sides on float32 may round two sums to one.
    """
    sums = torch.zeros(count)
    step: Tensor | float = 1.0
    for side in sides:
        sums += step * side.float()
        step = sums.max() + 1
    labels: Tensor = torch.unique(sums, return_inverse=True)[1]
    return labels


def best_cut(weights: Tensor, tau: float, exact: bool = False) -> tuple[float, Tensor | None]:
    """The best normalised cut of a graph [N, N]: its value and upper side, bool [N], None if it is not below tau."""
    degree = weights.sum(1)
    if not bool((degree > 0).all()):  # a node without neighbours is a part by itself
        isolated = degree <= 0
        return (0.0, ~isolated) if tau > 0 and not bool(isolated.all()) else (0.0, None)
    vector, bound = _second_vector(weights, degree, 1.0 if exact else tau, exact or len(weights) <= _DENSE)
    if vector is None:
        return bound, None
    value, side = _threshold(weights, degree, vector)
    return value, side if value < tau else None


def _second_vector(weights: Tensor, degree: Tensor, tau: float, dense: bool) -> tuple[Tensor | None, float]:
    """D^-1/2 v for the second smallest eigenvalue of I - D^-1/2 W D^-1/2, its largest entry positive; that eigenvalue.

    The vector is None if the eigenvalue is already above tau.
    """
    scale = degree.rsqrt()
    if dense:
        inside = weights.double() * scale.double()[:, None] * scale.double()
        values, vectors = torch.linalg.eigh(inside)
        return _signed(vectors[:, -2].to(scale.dtype) * scale), float(1 - values[-2])
    first = degree.sqrt()
    first = first / first.norm()
    count = len(weights)
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(count, generator=generator).to(weights)
    basis = weights.new_zeros(STEPS + 1, count)
    basis[0] = first  # the iteration stays orthogonal to the first eigenvector, which is known
    start = start - first * (first @ start)
    basis[1] = start / start.norm()
    diagonal: list[float] = []
    beside: list[float] = []
    for step in range(1, STEPS):
        vector = scale * (weights @ (scale * basis[step]))
        diagonal.append(float(vector @ basis[step]))
        for _ in range(2):  # twice is enough for full orthogonality
            vector = vector - basis[: step + 1].T @ (basis[: step + 1] @ vector)
        beside.append(float(vector.norm()))
        answer = verdict(diagonal, beside, count, tau)
        if answer is not None:
            best, bound = answer
            return None if best is None else _signed(basis[1 : step + 1].T @ best.to(basis) * scale), bound
        basis[step + 1] = vector / beside[-1]
    return None, 1.0  # unreachable: the last step returns


def verdict(
    diagonal: Sequence[float], beside: Sequence[float], count: int, tau: float
) -> tuple[Tensor | None, float] | None:
    """What the numbers of so many Lanczos steps say of a graph of `count` nodes; None: go on.

    Returns:
        the vector's coefficients [steps] in the basis, None if its eigenvalue is above tau; the eigenvalue.
    """
    step, length = len(diagonal), beside[-1]
    last = length < 1e-6 or step == STEPS - 1 or step >= count - 1
    if step % 4 and not last:
        return None
    off = torch.tensor(beside[:-1], dtype=torch.float64)
    small = torch.diag(torch.tensor(diagonal, dtype=torch.float64)) + torch.diag(off, 1) + torch.diag(off, -1)
    values, vectors = torch.linalg.eigh(small)
    error = abs(length * float(vectors[-1, -1]))
    gap = float(values[-1] - values[-2]) if len(values) > 1 else 1.0
    bound = 1 - float(values[-1])
    if step >= _PATIENCE and bound - error > tau:
        return None, bound
    if last or (step >= _PATIENCE // 2 and error < 1e-3 * gap) or error < 1e-6:
        return vectors[:, -1], bound
    return None


def _signed(vector: Tensor) -> Tensor:
    return vector * vector[vector.abs().argmax()].sign()


def _threshold(weights: Tensor, degree: Tensor, vector: Tensor) -> tuple[float, Tensor]:
    """The best of 100 thresholds between 0.99 of the vector's minimum and maximum: its value and upper side."""
    low, high = 0.99 * float(vector.min()), 0.99 * float(vector.max())
    levels = torch.linspace(low, high, THRESHOLDS, dtype=torch.float64, device=weights.device)
    rank = torch.searchsorted(levels, vector.double())  # number of thresholds below each node
    bins = THRESHOLDS + 1
    # weights between all pairs of bins; a threshold's cut is a block of their cumulative sums
    half = weights.new_zeros(bins, len(weights)).index_add_(0, rank, weights)
    block = half.new_zeros(bins, bins, dtype=torch.float64)
    block.index_add_(1, rank, half.double())
    # weight across each threshold: summed, not subtracted, which would cancel digits, as good cuts are small
    crossing = block.cumsum(0).flip(1).cumsum(1).flip(1).diagonal(1)
    mass = torch.zeros(bins, dtype=torch.float64, device=weights.device).index_add_(0, rank, degree.double())
    under, total = mass.cumsum(0)[:-1], mass.sum()
    values = crossing / under + crossing / (total - under)
    best = int(values.nan_to_num(float("inf"), posinf=float("inf")).argmin())
    return float(values[best].nan_to_num(float("inf"))), rank > best


def ncut_segments(
    features: Tensor, size: Size, tau: float = 0.5, alpha: float = 10.0, official_quirk: bool = False
) -> Tensor:
    """Segment an image by its patch features [C, h, w]: int64 [*size], ids from 0.

    The graph of patches is cut; then each pixel is assigned to the segment whose mean unit feature has the largest
    product with the bilinearly upsampled unit features, so that edges are finer than the patches.

    Raises:
        InputError: features are not [C, h, w], or not finite.
    """
    if features.ndim != 3:
        raise InputError(f"features are [C, h, w]; got {list(features.shape)}")
    features = features.float()
    parts, _ = recursive_cut(affinity(rearrange(features, "c h w -> (h w) c"), alpha), tau, official_quirk)
    return paint(features, parts, size)


def paint(features: Tensor, parts: Tensor, size: Size) -> Tensor:
    """Assign pixels to the parts [h * w] of patches with features [C, h, w]: int64 [*size]."""
    count = int(parts.max()) + 1
    if count <= 1:
        return torch.zeros(size, dtype=torch.int64, device=features.device)
    unit = functional.normalize(features, dim=0)
    rows = rearrange(unit, "c h w -> (h w) c")
    means = rows.new_zeros(count, rows.shape[1]).index_add_(0, parts, rows)
    means = means / torch.bincount(parts, minlength=count)[:, None]
    # products of upsampled features are upsampled products: K channels are upsampled instead of C
    scores = torch.einsum("kc,chw->khw", means, unit)
    winners = functional.interpolate(scores[None], size=size, mode="bilinear", align_corners=False)[0].argmax(0)
    labels: Tensor = torch.unique(winners, return_inverse=True)[1]  # renumber: a segment may have lost all its pixels
    return labels.view(size)
