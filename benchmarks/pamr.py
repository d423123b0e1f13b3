"""PAMR at LILA's settings: 224 x 224, 128 channels, pyramid 4, 2, 1 with 20, 10, 5 iterations.

Ours against the official form (24 shifted copies an iteration) composed coarse to fine in the same way, in turn, in one
run: python benchmarks/pamr.py [--channels 128] [--size 224] [--rounds 3] [--device cpu] [--cpu-seconds]
"""

import argparse
import time

import lila_plain
import torch
from clock import Clock
from common import machine
from dense_ctx_lila.pamr import refine


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, default=128)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--cpu-seconds", action="store_true", help="of this process, whatever else runs")
    args = parser.parse_args()
    torch.manual_seed(0)
    image = torch.rand(1, 3, args.size, args.size, device=args.device)
    features = torch.randn(1, args.channels, args.size // 14, args.size // 14, device=args.device)
    best, found = {}, {}
    with torch.no_grad():
        refine(features, image)  # warms up; the other side takes too long to be run for that
        for _ in range(args.rounds):
            for name, function in (("ours", refine), ("plain", lila_plain.pamr)):
                clock = Clock(args.device, args.cpu_seconds)
                with clock.part(name):
                    found[name] = function(features, image)
                best[name] = min(best.get(name, float("inf")), clock.seconds[name])
    fast, slow = best["ours"], best["plain"]
    error = float((found["ours"] - found["plain"]).abs().max() / found["plain"].abs().max())
    print(f"ours {fast:.3f} s, plain {slow:.3f} s: {slow / fast:.1f} times faster: target 10")
    print(f"largest difference {error:.1e} of the largest value: target 1e-5")
    print(f"{vars(args)}; {machine()}; {time.strftime('%Y-%m-%d')}")


if __name__ == "__main__":
    main()
