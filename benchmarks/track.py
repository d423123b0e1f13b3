"""Time and memory of one propagation step against the dense-affinity formulation of the same recipe.

    python benchmarks/track.py [--height 60 --width 107 --dim 384 --frames 8]

Both run in processes of their own, on the same features; memory is what a step adds
beside the context's features, which both hold (79 MB at the default size).
"""

from __future__ import annotations

import argparse
from typing import Any

from common import in_process, machine, median_seconds, peak_mb_since, reset_peak


def _data(height: int, width: int, dim: int, frames: int) -> Any:
    import torch

    generator = torch.Generator().manual_seed(0)
    # neighbouring frames of a clip are alike: a common part, plus each frame's own
    common = torch.randn(dim, height, width, generator=generator)
    features = torch.stack([common + torch.randn(dim, height, width, generator=generator) for _ in range(frames + 1)])
    labels = torch.rand(frames, 2, height, width, generator=generator)
    return features, labels / labels.sum(1, keepdim=True)


def dense(height: int, width: int, dim: int, frames: int) -> tuple[float, float, Any]:
    """The whole affinity of a frame to its context, masked, thresholded, normalised: the recipe as it is written."""
    import torch

    features, labels = _data(height, width, dim, frames)
    unit = torch.nn.functional.normalize
    query, keys = unit(features[-1].flatten(1), dim=0), unit(features[:-1].flatten(2), dim=1)
    ys, xs = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    ys, xs = ys.flatten(), xs.flatten()
    window = ((ys[:, None] - ys).abs() <= 12) & ((xs[:, None] - xs).abs() <= 12)
    window = window.float()
    before = reset_peak()

    def step() -> Any:
        affinity = torch.exp(torch.bmm(query.T.expand(frames, -1, -1), keys) / 0.1)  # [T, h w, h w]
        affinity *= window
        affinity = affinity.transpose(2, 1).reshape(-1, height * width)
        limit = torch.topk(affinity, 5, dim=0).values.min(dim=0).values
        affinity[affinity < limit] = 0
        affinity = affinity / affinity.sum(0, keepdim=True)
        return (labels.transpose(0, 1).flatten(1) @ affinity).view(-1, height, width)

    result = step()
    return median_seconds(step, 3), peak_mb_since() - before, result.numpy()


def ours(height: int, width: int, dim: int, frames: int) -> tuple[float, float, Any]:
    from dense_ctx_probes.local_knn import Propagator, _normalized, _propagate

    features, labels = _data(height, width, dim, frames)
    propagator = Propagator(features[0], labels[0], n_last_frames=frames - 1)
    propagator._values = labels.movedim(1, -1).contiguous()
    for slot in range(frames):
        propagator._keys[slot] = _normalized(features[slot])
    before = reset_peak()

    def step() -> Any:
        query = _normalized(features[-1])
        return _propagate(query, propagator._keys, propagator._values, 12, 5, 0.1).movedim(-1, 0)

    result = step()
    return median_seconds(step, 7), peak_mb_since() - before, result.numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("height", 60), ("width", 107), ("dim", 384), ("frames", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    size = (args.height, args.width, args.dim, args.frames)
    print(f"{args.height} x {args.width} grid, {args.dim} channels, {args.frames} context frames; {machine()}")
    slow, slow_mb, expected = in_process(dense, *size)
    fast, fast_mb, got = in_process(ours, *size)
    print(f"dense affinity  {slow:8.3f} s a frame  {slow_mb:8.0f} MB")
    print(f"dense_ctx       {fast:8.3f} s a frame  {fast_mb:8.0f} MB")
    print(f"ratio           {slow / fast:8.1f}             {slow_mb / max(fast_mb, 1):8.1f}")
    print(f"largest difference of the soft labels {abs(got - expected).max():.1e}")


if __name__ == "__main__":
    main()
