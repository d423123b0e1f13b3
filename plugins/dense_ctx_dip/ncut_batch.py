"""The recursive normalised cut of several images at once: small parts of all of them are decomposed together.

Most parts are small, and each would cost a sequence of tiny operations. Here all parts of one depth, of all images, are
padded to a few sizes and cut in batches; larger ones are cut one by one, as in `recursive_cut`. The partitions are the
same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from dense_ctx.errors import InputError
from dense_ctx.interfaces import Size

from .ncut import affinity, assemble_clusters, best_cut, paint, zero_free
from .ncut_lanczos import large_sides
from .ncut_thresholds import thresholds

SIZES = (8, 16, 32, 64, 96, 128, 192)  # nodes that parts are padded to
_BATCH = 256 * 192 * 192  # largest number of weights in a batch


@dataclass(frozen=True)
class _Part:
    image: int
    path: str  # the sides from the root down: "0" upper, "1" lower
    nodes: Tensor
    weights: Tensor


def recursive_cuts(weights: Sequence[Tensor], tau: float = 0.5, official_quirk: bool = False) -> list[Tensor]:
    """The part of each node of each graph [N, N], numbered as by `recursive_cut`: int64 [N] each.

    Raises:
        InputError: the weights are not square, or negative.
    """
    hosts = [graph.cpu() for graph in weights]  # where small parts are cut: as an accelerator's kernels they are slow
    for graph in hosts:
        if graph.ndim != 2 or graph.shape[0] != graph.shape[1] or not len(graph) or bool((graph < 0).any()):
            raise InputError(f"weights are [N, N], at least 0; got {list(graph.shape)}")
    least = 2 if official_quirk else 3
    below = [zero_free(g) if official_quirk else torch.ones(len(g), dtype=torch.bool) for g in hosts]
    parts = [
        _Part(index, "", torch.arange(len(graph)), graph if len(graph) > SIZES[-1] else hosts[index])
        for index, graph in enumerate(weights)
    ]
    leaves: list[_Part] = []
    uppers: list[_Part] = []
    while parts:
        sides = _sides(parts, tau, least)
        deeper = []
        for part, side in zip(parts, sides, strict=True):
            if side is None:
                leaves.append(part)
                continue
            uppers.append(_Part(part.image, part.path, part.nodes[side], part.weights))
            for letter, members in (("0", side), ("1", ~side)):
                index = (members & below[part.image][part.nodes]).nonzero()[:, 0]
                whole = part.weights.device.type == "cpu" or len(index) > SIZES[-1]
                within, local = (part.weights, index) if whole else (hosts[part.image], part.nodes[index])
                local = local.to(within.device)
                inner = within[local][:, local]
                deeper.append(_Part(part.image, part.path + letter, part.nodes[index], inner))
        parts = deeper
    if official_quirk:
        accepted: list[list[Tensor]] = [[] for _ in weights]
        for upper in sorted(uppers, key=lambda upper: upper.path):  # the order of `recursive_cut`
            members = torch.zeros(len(weights[upper.image]), dtype=torch.bool)
            members[upper.nodes] = True
            accepted[upper.image].append(members)
        return [assemble_clusters(s, len(graph)).to(graph.device) for s, graph in zip(accepted, weights, strict=True)]
    labels = [torch.zeros(len(graph), dtype=torch.int64) for graph in weights]
    counts = [0] * len(weights)
    for leaf in sorted(leaves, key=lambda leaf: leaf.path):
        labels[leaf.image][leaf.nodes] = counts[leaf.image]
        counts[leaf.image] += 1
    return [label.to(graph.device) for label, graph in zip(labels, weights, strict=True)]


def _sides(parts: Sequence[_Part], tau: float, least: int) -> list[Tensor | None]:
    """The upper side, bool [n], of each part that is cut; None for the others. Fewer nodes than `least` are not cut."""
    sides: list[Tensor | None] = [None] * len(parts)
    large = [number for number, part in enumerate(parts) if part.weights.device.type != "cpu"]
    for number, side in zip(large, large_sides([parts[number].weights for number in large], tau), strict=True):
        sides[number] = side
    groups: dict[int, list[int]] = {}
    for number, part in enumerate(parts):
        count = len(part.nodes)
        if count < least or part.weights.device.type != "cpu":
            continue
        if count > SIZES[-1] or not bool((part.weights.sum(1) > 0).all()):
            sides[number] = best_cut(part.weights, tau)[1]
        else:
            groups.setdefault(next(size for size in SIZES if size >= count), []).append(number)
    for size, numbers in groups.items():
        graphs = max(1, _BATCH // size**2)
        for start in range(0, len(numbers), graphs):
            batch = numbers[start : start + graphs]
            for number, side in zip(batch, _cut([parts[n].weights for n in batch], size, tau), strict=True):
                sides[number] = side
    return sides


def _cut(graphs: Sequence[Tensor], size: int, tau: float) -> list[Tensor | None]:
    """As `best_cut`, for a batch of graphs [n, n] with n up to `size`; every node has a neighbour."""
    counts = torch.tensor([len(graph) for graph in graphs])
    weights = graphs[0].new_zeros(len(graphs), size, size)
    for padded, graph in zip(weights, graphs, strict=True):
        padded[: len(graph), : len(graph)] = graph
    real = (torch.arange(size) < counts[:, None]).to(weights.device)
    degree = weights.sum(2)
    scale = torch.where(real, degree.clamp_min(torch.finfo(degree.dtype).tiny).rsqrt(), 0)
    inside = weights.double() * scale.double()[:, :, None] * scale.double()[:, None]
    # padding gets the eigenvalue -2, below all others, so that the second largest is the graph's
    inside.diagonal(dim1=1, dim2=2).sub_(2 * (~real).double())
    vectors = torch.linalg.eigh(inside)[1][:, :, -2].to(scale.dtype) * scale
    largest = vectors.abs().argmax(1, keepdim=True)
    vectors = vectors * vectors.gather(1, largest).sign()
    values, upper = thresholds(weights, degree, vectors, real)
    return [
        upper[number, : len(graph)] if value < tau else None
        for number, (graph, value) in enumerate(zip(graphs, values.tolist(), strict=True))
    ]


def ncut_segments_of(
    features: Sequence[Tensor],
    sizes: Sequence[Size],
    tau: float = 0.5,
    alpha: float = 10.0,
    official_quirk: bool = False,
) -> list[Tensor]:
    """Segment several images, with the results of `ncut_segments`: features [C, h, w] and size (H, W) of each.

    Raises:
        InputError: features are not [C, h, w], or not finite.
    """
    for item in features:
        if item.ndim != 3:
            raise InputError(f"features are [C, h, w]; got {list(item.shape)}")
    graphs = [affinity(rearrange(item.float(), "c h w -> (h w) c"), alpha) for item in features]
    parts = recursive_cuts(graphs, tau, official_quirk)
    return [paint(item.float(), part, size) for item, part, size in zip(features, parts, sizes, strict=True)]
