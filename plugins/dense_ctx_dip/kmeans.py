"""k-means of segment features, by faiss or by Lloyd's iterations in blocks."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from dense_ctx.containment import optional_package
from dense_ctx.errors import InputError, PluginError

Engine = Literal["auto", "torch", "faiss"]
SAMPLE = 256  # rows per centroid that the iterations see, at most


def kmeans(
    rows: Tensor,
    count: int,
    iterations: int = 20,
    seed: int = 0,
    engine: Engine = "auto",
    sample: int = SAMPLE,
) -> Tensor:
    """Centroids [count, C] of rows [N, C] by squared Euclidean distance.

    A centroid that loses all its rows moves to the row of the largest cluster that is farthest from its centroid.

    Args:
        iterations: at most; stops early when no assignment changes.
        seed: of the sample and the initial centroids.
        engine: "torch", "faiss", or "auto": faiss for 100,000 rows or more if it is installed.
        sample: rows per centroid, at most.

    Raises:
        InputError: there are fewer rows than centroids, or NaN.
        MissingDependencyError: engine="faiss", which is not installed.
    """
    if rows.ndim != 2 or count < 1 or iterations < 1:
        raise InputError(f"rows [N, C], count and iterations from 1; got {list(rows.shape)}, {count}, {iterations}")
    if len(rows) < count:
        raise InputError(
            f"{len(rows)} segments cannot make {count} pseudo-classes: ask for at most {len(rows)} (classes=), "
            "better a tenth of it, or give more images"
        )
    if not bool(rows.isfinite().all()):
        raise InputError("The segments' features hold NaN or infinity")
    generator = torch.Generator().manual_seed(seed)
    if len(rows) > sample * count:
        rows = rows[torch.randperm(len(rows), generator=generator)[: sample * count]]
    rows = rows.float()
    if engine == "faiss" or (engine == "auto" and len(rows) >= 100_000):
        try:
            faiss = optional_package("faiss", "k-means by faiss (kmeans=torch does without)", "faiss-cpu")
        except PluginError:  # absent or broken
            if engine == "faiss":
                raise
        else:
            clustering = faiss.Kmeans(rows.shape[1], count, niter=iterations, seed=seed, max_points_per_centroid=sample)
            clustering.train(rows.cpu().numpy())
            return torch.tensor(clustering.centroids, device=rows.device)
    centroids = _initial(rows, count, generator)
    before: Tensor | None = None
    for _ in range(iterations):
        nearest, distance = assign(rows, centroids)
        if before is not None and torch.equal(nearest, before):
            break
        before = nearest
        sizes = torch.bincount(nearest, minlength=count)
        sums = torch.zeros_like(centroids).index_add_(0, nearest, rows)
        centroids = torch.where((sizes > 0)[:, None], sums / sizes.clamp_min(1)[:, None], centroids)
        for empty in (sizes == 0).nonzero()[:, 0].tolist():
            inside = (nearest == int(sizes.argmax())).nonzero()[:, 0]
            far = inside[distance[inside].argmax()]
            centroids[empty] = rows[far]
            nearest[far], distance[far] = empty, 0
            sizes = torch.bincount(nearest, minlength=count)
    return centroids


def _initial(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Initial centroids: k-means++ for up to 64, where a bad start matters; random rows for more."""
    order = torch.randperm(len(rows), generator=generator)[:count]
    if count > 64:
        return rows[order.to(rows.device)].clone()
    seeds = [int(order[0])]
    distance = (rows - rows[seeds[0]]).square().sum(1)
    while len(seeds) < count:
        weight = distance.clamp_min(0).double().cpu()
        if float(weight.sum()) <= 0:  # fewer distinct rows than centroids
            weight = torch.ones_like(weight)
        seeds.append(int(torch.multinomial(weight, 1, generator=generator)))
        distance = torch.minimum(distance, (rows - rows[seeds[-1]]).square().sum(1))
    return rows[seeds].clone()


def assign(rows: Tensor, centroids: Tensor, block: int = 1 << 14) -> tuple[Tensor, Tensor]:
    """Nearest centroid of each row, int64 [N], and the squared distance to it [N], in blocks of rows."""
    squares = centroids.square().sum(1)
    indices, distances = [], []
    for part in rows.split(block):
        least, index = (squares - 2 * part.float() @ centroids.T).min(1)
        indices.append(index)
        distances.append(least + part.float().square().sum(1))
    return torch.cat(indices), torch.cat(distances).clamp_min(0)
