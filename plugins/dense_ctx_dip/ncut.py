"""Recursive normalised cut of patch features (Shi and Malik 2000), as DiffCut uses it, without dense decompositions.

A graph joins all patches with weight (cosine, scaled to [0, 1] over the image) ^ alpha. It is split in two by the
second eigenvector of its normalised Laplacian, and each side again, while the cut's value stays below tau.

Two things make it fast. The vector comes from Lanczos iterations, which need products with the weights only. And the
cut's value can never be below the second eigenvalue (the relaxation's bound), so a part that will not be split is
known after few iterations, before its vector is: most cuts tried are of that kind.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dense_ctx.errors import InputError
from dense_ctx.interfaces import Size

THRESHOLDS = 100
_DENSE = 192  # nodes up to which the exact decomposition is the faster way
_STEPS = 240  # of Lanczos, at most
_PATIENCE = 16  # steps before a part may be left whole


@dataclass(frozen=True)
class Cut:
    """A split that was tried.

    value: of the normalised cut, in 0..2; of a rejected one a lower bound where its vector was not needed.
    nodes: how many the part has. side: bool [N] over all nodes, the upper side; None where it was rejected.
    """

    value: float
    nodes: int
    side: Tensor | None


def affinity(features: Tensor, alpha: float = 10.0) -> Tensor:
    """Weights [N, N] of rows [N, C]: cosines scaled to [0, 1] by their least and largest, to the power alpha.

    Raises:
        InputError: no row, NaN or infinity.
    """
    if features.ndim != 2 or not len(features) or not bool(features.isfinite().all()):
        raise InputError(f"features are finite rows [N, C]; got {list(features.shape)}, or NaN or infinity among them")
    rows = functional.normalize(features.float(), dim=1)
    weights = rows @ rows.T
    low, high = weights.aminmax()
    if float(high - low) < 1e-6:  # all alike: nothing to cut
        return torch.ones_like(weights)
    weights = weights.sub_(low).div_(high - low)
    return _power(weights, alpha)


def _power(x: Tensor, exponent: float) -> Tensor:
    if exponent != int(exponent) or not 1 <= exponent <= 64:
        return x.pow(exponent)
    whole, result = int(exponent), None
    while whole:  # squarings: some times as fast as pow
        if whole & 1:
            result = x if result is None else result * x
        whole >>= 1
        if whole:
            x = x * x
    return x if result is None else result


def recursive_cut(
    weights: Tensor, tau: float = 0.5, official_quirk: bool = False, exact: bool = False
) -> tuple[Tensor, list[Cut]]:
    """Split a graph of weights [N, N] until no part has a cut below tau.

    Args:
        tau: largest value of a cut that is made.
        official_quirk: below the top a node whose weight to any other of its part is exactly zero is left out (two
            patches of nearly every image, by the scaling to [0, 1]).
        exact: dense decompositions throughout, to compare with.

    Returns:
        Part of each node, int64 [N], from 0, -1 for one left out; and the cuts tried, in order.

    Raises:
        InputError: weights that are not square and at least 0.
    """
    if weights.ndim != 2 or weights.shape[0] != weights.shape[1] or not len(weights) or bool((weights < 0).any()):
        raise InputError(f"weights are [N, N], at least 0; got {list(weights.shape)}")
    count = len(weights)
    labels = torch.full((count,), -1, dtype=torch.int64)
    cuts: list[Cut] = []
    parts = 0
    waiting = [(torch.arange(count), weights)]
    while waiting:
        nodes, within = waiting.pop()
        if official_quirk and len(nodes) < count:
            whole = (within > 0).all(1)
            if not bool(whole.all()):
                nodes, within = nodes[whole.cpu()], within[whole][:, whole]
        value, side = (float("inf"), None) if len(nodes) < 3 else best_cut(within, tau, exact)
        if len(nodes) >= 3:
            full = None
            if side is not None:
                side = side.cpu()
                full = torch.zeros(count, dtype=torch.bool)
                full[nodes[side]] = True
            cuts.append(Cut(value, len(nodes), full))
        if side is None:
            if len(nodes):
                labels[nodes] = parts
                parts += 1
            continue
        for part in (~side, side):  # the upper side comes off the stack first
            index = part.nonzero()[:, 0]
            there = index.to(within.device)
            inner = within[there][:, there]
            # small parts are many: on an accelerator each would wait for its turn
            waiting.append((nodes[index], inner.cpu() if len(index) <= _DENSE else inner))
    return labels.to(weights.device), cuts


def best_cut(weights: Tensor, tau: float, exact: bool = False) -> tuple[float, Tensor | None]:
    """The normalised cut of a graph [N, N] and its upper side, bool [N]; None where its value is not below tau."""
    degree = weights.sum(1)
    if not bool((degree > 0).all()):  # a node without any neighbour is a part by itself
        lonely = degree <= 0
        return (0.0, ~lonely) if tau > 0 and not bool(lonely.all()) else (0.0, None)
    vector, bound = _second_vector(weights, degree, 1.0 if exact else tau, exact or len(weights) <= _DENSE)
    if vector is None:
        return bound, None
    value, side = _threshold(weights, degree, vector)
    return value, side if value < tau else None


def _second_vector(weights: Tensor, degree: Tensor, tau: float, dense: bool) -> tuple[Tensor | None, float]:
    """D^-1/2 v of the second smallest eigenvalue of I - D^-1/2 W D^-1/2, its largest entry positive; that eigenvalue.

    None in place of the vector where the eigenvalue is above tau already.
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
    basis = weights.new_zeros(_STEPS + 1, count)
    basis[0] = first  # the known first vector is kept out of the iteration
    start = start - first * (first @ start)
    basis[1] = start / start.norm()
    diagonal: list[float] = []
    beside: list[float] = []
    for step in range(1, _STEPS):
        vector = scale * (weights @ (scale * basis[step]))
        diagonal.append(float(vector @ basis[step]))
        for _ in range(2):  # twice is enough
            vector = vector - basis[: step + 1].T @ (basis[: step + 1] @ vector)
        length = float(vector.norm())
        done = length < 1e-6 or step == _STEPS - 1 or step >= count - 1
        if step % 4 == 0 or done:
            small = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
            if beside:
                off = torch.tensor(beside, dtype=torch.float64)
                small = small + torch.diag(off, 1) + torch.diag(off, -1)
            values, vectors = torch.linalg.eigh(small)
            error = abs(length * float(vectors[-1, -1]))
            gap = float(values[-1] - values[-2]) if len(values) > 1 else 1.0
            bound = 1 - float(values[-1])
            if step >= _PATIENCE and bound - error > tau:
                return None, bound
            if done or (step >= _PATIENCE // 2 and error < 1e-3 * gap) or error < 1e-6:
                best = basis[1 : step + 1].T @ vectors[:, -1].to(basis)
                return _signed(best * scale), bound
        beside.append(length)
        basis[step + 1] = vector / length
    return None, 1.0  # unreachable: the last step returns


def _signed(vector: Tensor) -> Tensor:
    return vector * vector[vector.abs().argmax()].sign()


def _threshold(weights: Tensor, degree: Tensor, vector: Tensor) -> tuple[float, Tensor]:
    """The best of 100 thresholds between 0.99 of the vector's least and largest entry: its value and upper side."""
    low, high = 0.99 * float(vector.min()), 0.99 * float(vector.max())
    levels = torch.linspace(low, high, THRESHOLDS, dtype=torch.float64, device=weights.device)
    place = torch.searchsorted(levels, vector.double())  # how many thresholds a node is above
    bins = THRESHOLDS + 1
    # weights between all pairs of bins; a threshold's cut is then a block of their running sums
    half = weights.new_zeros(bins, len(weights)).index_add_(0, place, weights)
    block = half.new_zeros(bins, bins, dtype=torch.float64)
    block.index_add_(1, place, half.double())
    # from the bins up to a threshold to those above it: summed, not subtracted, since a good cut is a small one
    crossing = block.cumsum(0).flip(1).cumsum(1).flip(1).diagonal(1)
    mass = torch.zeros(bins, dtype=torch.float64, device=weights.device).index_add_(0, place, degree.double())
    under, total = mass.cumsum(0)[:-1], mass.sum()
    values = crossing / under + crossing / (total - under)
    best = int(values.nan_to_num(float("inf"), posinf=float("inf")).argmin())
    return float(values[best].nan_to_num(float("inf"))), place > best


def ncut_segments(
    features: Tensor, size: Size, tau: float = 0.5, alpha: float = 10.0, official_quirk: bool = False
) -> Tensor:
    """Segments of an image from its patch features [C, h, w]: int64 [*size], ids from 0.

    Patches are cut, then each pixel takes the segment whose mean unit feature is nearest to its own, bilinearly
    upsampled, feature: edges become finer than the patches.

    Raises:
        InputError: features that are not [C, h, w], or not finite.
    """
    if features.ndim != 3:
        raise InputError(f"features are [C, h, w]; got {list(features.shape)}")
    features = features.float()
    parts, _ = recursive_cut(affinity(features.flatten(1).T, alpha), tau, official_quirk)
    return paint(features, parts, size)


def paint(features: Tensor, parts: Tensor, size: Size) -> Tensor:
    """Pixels' segments, int64 [*size], from the parts [h * w] of patches with features [C, h, w]."""
    rows = features.flatten(1).T
    known = parts >= 0
    count = int(parts.max()) + 1
    if count <= 1:
        return torch.zeros(size, dtype=torch.int64, device=features.device)
    unit = functional.normalize(rows, dim=1)
    means = unit.new_zeros(count, unit.shape[1]).index_add_(0, parts[known], unit[known])
    means = means / torch.bincount(parts[known], minlength=count)[:, None]
    # the mean of largest product with the unit pixel feature is that with the feature of any length, and products of
    # upsampled features are upsampled products: as many channels as segments, in place of C
    scores = torch.einsum("kc,chw->khw", means, features)
    found = functional.interpolate(scores[None], size=size, mode="bilinear", align_corners=False)[0].argmax(0)
    return torch.unique(found, return_inverse=True)[1].view(size)  # a segment may have lost all its pixels
