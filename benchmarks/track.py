"""Time and memory of one propagation step against the dense-affinity formulation of the same recipe.

    python benchmarks/track.py [--height 60 --width 107 --dim 384 --frames 8 --rounds 5]

Both see the same clip. Memory is of a process of its own: what a step adds beside the context's features, which both
hold (79 MB at the default size); time is taken turn about in one process. "float32" is ours without the first look in
bfloat16, as on a processor that has no instructions for it.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import torch
from common import in_process, in_turn, machine, parse, peak_mb_since, ratio, reset_peak, same
from dense_ctx_probes import local_knn
from dense_ctx_probes.local_knn import Propagator


def clip(height: int, width: int, dim: int, frames: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features [frames + 1, dim, h, w] of a clip, and the first frame's labels [2, h, w]."""
    generator = torch.Generator().manual_seed(0)
    # neighbouring frames of a clip are alike: a common part, plus each frame's own
    common = torch.randn(dim, height, width, generator=generator)
    features = torch.stack([common + torch.randn(dim, height, width, generator=generator) for _ in range(frames + 1)])
    labels = torch.rand(2, height, width, generator=generator)
    return features, labels / labels.sum(0)


class Dense:
    """The whole affinity of a frame to its context, masked, thresholded, normalised: the recipe as it is written."""

    def __init__(self, features: torch.Tensor, labels: torch.Tensor, n_last_frames: int) -> None:
        self.frames, self.labels, self.count = [self.unit(features)], [labels], n_last_frames
        ys, xs = torch.meshgrid(*(torch.arange(side) for side in features.shape[1:]), indexing="ij")
        ys, xs = ys.flatten(), xs.flatten()
        self.window = (((ys[:, None] - ys).abs() <= 12) & ((xs[:, None] - xs).abs() <= 12)).float()

    @staticmethod
    def unit(features: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(features.flatten(1), dim=0)

    def step(self, features: torch.Tensor) -> torch.Tensor:
        query = self.unit(features)
        affinity = torch.exp(torch.bmm(query.T.expand(len(self.frames), -1, -1), torch.stack(self.frames)) / 0.1)
        affinity *= self.window
        affinity = affinity.transpose(2, 1).reshape(-1, query.shape[1])
        limit = torch.topk(affinity, 5, dim=0).values.min(dim=0).values
        affinity[affinity < limit] = 0
        affinity = affinity / affinity.sum(0, keepdim=True)
        result = (torch.stack(self.labels, 1).flatten(1) @ affinity).view(-1, *features.shape[1:])
        for kept, new in ((self.frames, query), (self.labels, result)):
            kept.append(new)
            if len(kept) > 1 + self.count:  # the first frame stays
                del kept[1]
        return result


def in_float32(*args: Any, **options: Any) -> Propagator:
    """Ours without the first look."""
    propagator = Propagator(*args, **options)
    local_knn.multiplies_bfloat16, plain = (lambda device: False), local_knn.multiplies_bfloat16
    try:
        propagator._place(torch.device("cpu"))
    finally:
        local_knn.multiplies_bfloat16 = plain
    propagator._place = lambda device: None  # type: ignore[method-assign]
    return propagator


SIDES: dict[str, Any] = {"dense": Dense, "float32": in_float32, "ours": Propagator}


def peak(side: str, *size: int) -> float:
    """MB that a step with a full context adds to a fresh process."""
    features, labels = clip(*size)
    propagator = SIDES[side](features[0], labels, n_last_frames=size[-1] - 1)
    for frame in features[1:]:
        propagator.step(frame)
    before = reset_peak()
    propagator.step(features[-1])
    return peak_mb_since() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("height", 60), ("width", 107), ("dim", 384), ("frames", 8), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--sides", nargs="+", choices=[*SIDES], default=[*SIDES], help="the last one is ours")
    parser.add_argument("--cpu", action="store_true", help="seconds of the processor, of all threads, not of the wall")
    args = parse(parser, height=30, width=40, dim=16, frames=3, rounds=1)
    size = (args.height, args.width, args.dim, args.frames)
    print(f"{args.height} x {args.width} grid, {args.dim} channels, {args.frames} context frames; {machine()}")
    features, labels = clip(*size)
    sides = {name: SIDES[name](features[0], labels, n_last_frames=args.frames - 1) for name in args.sides}
    difference = 0.0
    for frame in features[1:]:  # fills the context
        first, *others = (side.step(frame) for side in sides.values())
        difference = max(difference, *(float((first - other).abs().max()) for other in others))
    same(difference, 1e-5, "soft labels")
    work = {name: lambda side=side: side.step(features[-1]) for name, side in sides.items()}
    seconds = in_turn(work, args.rounds, args.cpu)
    memory = {name: in_process(peak, name, *size) for name in sides}
    for name in sides:
        print(f"{name:8}{statistics.median(seconds[name]):8.3f} s a frame, median {memory[name]:8.0f} MB")
    for name in args.sides[:-1]:
        print(f"{name} / ours, time {ratio(seconds[name], seconds['ours'])}")
        print(f"{name} / ours, memory {memory[name] / max(memory['ours'], 1):.1f}")
    print(f"largest difference of the soft labels {difference:.1e} over {args.frames} steps")


if __name__ == "__main__":
    main()
