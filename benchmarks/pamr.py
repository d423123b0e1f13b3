"""PAMR at LILA's settings: 224 x 224, 128 channels, pyramid 4, 2, 1 with 20, 10, 5 iterations.

Ours against the official form (24 shifted copies an iteration) composed coarse to fine in the same way, in turn, in one
run: python benchmarks/pamr.py [--channels 128] [--size 224] [--rounds 5] [--device cpu] [--cpu-seconds]
"""

import argparse
import statistics
import time

import lila_plain
import torch
from common import in_turn, machine, parse, ratio, same
from dense_ctx_lila.pamr import refine


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, default=128)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--cpu-seconds", action="store_true", help="of this process, whatever else runs")
    args = parse(parser, channels=16, size=56, rounds=2)
    torch.manual_seed(0)
    image = torch.rand(1, 3, args.size, args.size, device=args.device)
    features = torch.randn(1, args.channels, args.size // 14, args.size // 14, device=args.device)
    sides, results = {"ours": refine, "plain": lila_plain.pamr}, {}

    def run(name):
        with torch.no_grad():
            results[name] = sides[name](features, image)
        if args.device == "cuda":
            torch.cuda.synchronize()

    run("ours")  # warms up; the other side takes too long to be run for that
    seconds = in_turn({name: lambda name=name: run(name) for name in sides}, args.rounds, args.cpu_seconds)
    error = float((results["ours"] - results["plain"]).abs().max() / results["plain"].abs().max())
    same(error, 1e-5, "PAMR, relative to its largest value")
    for name, values in seconds.items():
        print(f"{name:6}{statistics.median(values):8.3f} s, median")
    print(f"plain / ours {ratio(seconds['plain'], seconds['ours'])}: target 10")
    print(f"largest difference {error:.1e} of the largest value: target 1e-5")
    print(f"{vars(args)}; {machine()}; {time.strftime('%Y-%m-%d')}")


if __name__ == "__main__":
    main()
