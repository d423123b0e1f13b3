"""Cuts of the large parts of several graphs at once, for an accelerator.

As `ncut.best_cut` one by one: the same iterations from the same start, decided by the same rule. But an accelerator's
host waits for each number it looks at, and launches each operation: here all parts take each step together, and the
host looks at their numbers once in so many steps, for all the steps between.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .ncut import STEPS, best_cut, verdict
from .ncut_thresholds import thresholds

_LOOK = 16  # steps between the host's looks
_BATCH = 1 << 26  # largest number of weights at once


def large_sides(graphs: Sequence[Tensor], tau: float) -> list[Tensor | None]:
    """The upper side, bool [n] on the CPU, of each graph [n, n] that has a cut below tau; None for the others."""
    sides: list[Tensor | None] = [None] * len(graphs)
    order = sorted(range(len(graphs)), key=lambda number: len(graphs[number]))
    while order:
        count = max(1, _BATCH // len(graphs[order[-1]]) ** 2)
        order, batch = order[:-count], order[-count:]
        for number, side in zip(batch, _cut([graphs[number] for number in batch], tau), strict=True):
            sides[number] = side
    return sides


def _cut(graphs: Sequence[Tensor], tau: float) -> list[Tensor | None]:
    counts = torch.tensor([len(graph) for graph in graphs])
    size = int(counts.max())
    weights = graphs[0].new_zeros(len(graphs), size, size)
    for padded, graph in zip(weights, graphs, strict=True):
        padded[: len(graph), : len(graph)] = graph
    real = (torch.arange(size) < counts[:, None]).to(weights.device)
    degree = weights.sum(2)
    scale = torch.where(degree > 0, degree.rsqrt(), 0)
    starts = weights.new_zeros(len(graphs), size, device="cpu")
    for start, graph in zip(starts, graphs, strict=True):
        start[: len(graph)] = torch.randn(len(graph), generator=torch.Generator().manual_seed(0))
    basis = _first(degree, starts.to(weights.device))
    diagonal: list[Tensor] = []
    beside: list[Tensor] = []
    coefficients = torch.zeros(len(graphs), STEPS)  # of the vector looked for, in the basis
    waiting, last, whole = dict.fromkeys(range(len(graphs))), 0, torch.empty(0)
    for step in range(1, min(STEPS, size)):
        vector = scale[:, :, None] * (weights @ (scale * basis[:, step])[:, :, None])
        diagonal.append((vector[:, :, 0] * basis[:, step]).sum(1))
        for _ in range(2):  # twice is enough for full orthogonality
            done = basis[:, : step + 1]
            vector = torch.baddbmm(vector, done.mT, done @ vector, alpha=-1)
        beside.append(torch.linalg.vector_norm(vector[:, :, 0], dim=1))
        if step + 1 < STEPS:
            torch.div(vector[:, :, 0], beside[-1].clamp_min(1e-30)[:, None], out=basis[:, step + 1])
        if step % _LOOK and step + 1 < min(STEPS, size):
            continue
        neighboured = ((degree > 0) | ~real).all(1).float()
        numbers = torch.stack([neighboured, *diagonal, *beside]).double().cpu()
        whole, alphas, betas = numbers[0] > 0, numbers[1 : step + 1].T.tolist(), numbers[step + 1 :].T.tolist()
        for number in list(waiting):
            for at in range(last + 1, step + 1):
                answer = verdict(alphas[number][:at], betas[number][:at], len(graphs[number]), tau)
                if answer is not None:
                    if answer[0] is not None:
                        coefficients[number, :at] = answer[0]
                    del waiting[number]
                    break
        last = step
        if not waiting:
            break
    solution = coefficients[:, :last].to(weights)
    vectors = (basis[:, 1 : last + 1].mT @ solution[:, :, None])[:, :, 0] * scale
    vectors = vectors * vectors.gather(1, vectors.abs().argmax(1, keepdim=True)).sign()
    values, upper = thresholds(weights, degree, vectors, real)
    accepted, upper = (values < tau).cpu() & (coefficients != 0).any(1), upper.cpu()
    sides: list[Tensor | None] = []
    for number, graph in enumerate(graphs):
        if not bool(whole[number]):  # a node without neighbours is a part by itself
            side = best_cut(graph, tau)[1]
            sides.append(None if side is None else side.cpu())
        else:
            sides.append(upper[number, : len(graph)] if bool(accepted[number]) else None)
    return sides


def _first(degree: Tensor, starts: Tensor) -> Tensor:
    """The basis [G, steps, n]: the first eigenvector, which is known, and a start orthogonal to it."""
    first = degree.clamp_min(0).sqrt()
    first = first / torch.linalg.vector_norm(first, dim=1, keepdim=True)
    starts = starts - first * (first * starts).sum(1, keepdim=True)
    basis = degree.new_zeros(len(degree), STEPS, degree.shape[1])
    basis[:, 0] = first
    basis[:, 1] = starts / torch.linalg.vector_norm(starts, dim=1, keepdim=True)
    return basis
