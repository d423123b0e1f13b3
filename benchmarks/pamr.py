"""PAMR at LILA's settings: 224 x 224, 128 channels, pyramid 4, 2, 1 with 20, 10, 5 iterations.

Ours against the plain formulation (24 shifted copies an iteration, as the official module works), composed coarse to
fine in the same way, in one run: python benchmarks/pamr.py [--channels 128] [--size 224] [--rounds 3]
"""

import argparse
import time

import torch
from common import machine
from dense_ctx_lila.pamr import affinity, refine
from torch.nn import functional

DILATIONS = (1, 3, 5)


def plain(features, image, pyramid=(4, 2, 1), iterations=(20, 10, 5)):
    """The same numbers from stacks of neighbours."""
    for factor, count in zip(pyramid, iterations, strict=True):
        level = image
        if factor > 1:
            size = (image.shape[-2] // factor, image.shape[-1] // factor)
            level = functional.interpolate(image, size=size, mode="bilinear", antialias=True)
        features = functional.interpolate(features, size=level.shape[-2:], mode="bilinear", align_corners=True)
        weights = affinity(level, DILATIONS)[:, None]
        for _ in range(count):
            features = (neighbours(features) * weights).sum(2)
    return features


def neighbours(x):
    """[B, C, 24, H, W]."""
    height, width = x.shape[-2:]
    reach = max(DILATIONS)
    padded = functional.pad(x, (reach,) * 4, mode="replicate")
    steps = [(y * d, x * d) for d in DILATIONS for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]
    return torch.stack([padded[..., reach + y :, reach + x :][..., :height, :width] for y, x in steps], 2)


def timed(function, rounds):
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        out = function()
        seconds.append(time.perf_counter() - began)
    return out, sorted(seconds)[len(seconds) // 2]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, default=128)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.manual_seed(0)
    image = torch.rand(1, 3, args.size, args.size)
    features = torch.randn(1, args.channels, args.size // 14, args.size // 14)
    with torch.no_grad():
        ours, fast = timed(lambda: refine(features, image), args.rounds)
        theirs, slow = timed(lambda: plain(features, image), args.rounds)
    print(f"ours {fast:.3f} s, plain {slow:.3f} s: {slow / fast:.1f} times faster")
    print(f"largest difference {float((ours - theirs).abs().max()):.1e}")
    print(machine())


if __name__ == "__main__":
    main()
