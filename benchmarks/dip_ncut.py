"""The recursive normalised cut against dense eigen-decompositions of each part: time, and patches that agree.

python benchmarks/dip_ncut.py --grid 64
"""

import argparse
import json
import time

import numpy as np
import torch
from common import parse, same
from dense_ctx_dip.ncut import affinity, recursive_cut
from scipy.optimize import linear_sum_assignment
from skimage import data
from torch.nn import functional

from dense_ctx import create_backbone


def features(grid):
    """A real picture's, on a square grid: the last two stages of EfficientNet-Lite0 with its ImageNet weights."""
    image = torch.from_numpy(data.chelsea()).permute(2, 0, 1)[None].float() / 255
    image = functional.interpolate(image, (grid * 8, grid * 8), mode="bilinear", antialias=True)
    with torch.no_grad():
        maps = create_backbone("efficientnet-lite0")((image - 0.5) / 0.5).maps[-3:]
    large = [functional.interpolate(m, (grid, grid), mode="bilinear") for m in maps]
    return torch.cat([functional.normalize(m, dim=1) for m in large], 1)[0].flatten(1).T


def agreement(one, two):
    table = np.zeros((int(one.max()) + 1, int(two.max()) + 1))
    np.add.at(table, (one.numpy(), two.numpy()), 1)
    return table[linear_sum_assignment(table, maximize=True)].sum() / len(one)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--grid", type=int, default=64)
    parser.add_argument("--tau", type=float, default=0.5)
    parser.add_argument("--alpha", type=float, default=10.0)
    args = parse(parser, grid=16)
    rows = features(args.grid)
    began = time.perf_counter()
    weights = affinity(rows, args.alpha)
    graph = time.perf_counter() - began
    seconds, labels, counts = {}, {}, {}
    for name, exact in (("lanczos", False), ("dense", True)):
        began = time.perf_counter()
        labels[name], cuts = recursive_cut(weights, args.tau, exact=exact)
        seconds[name], counts[name] = time.perf_counter() - began, len(cuts)
    alike = float(agreement(labels["lanczos"], labels["dense"]))
    same(1 - alike, 0.005, "the share of patches in the same segment")
    record = {
        "grid": args.grid,
        "segments": int(labels["dense"].max()) + 1,
        "cuts_tried": counts,
        "affinity_seconds": round(graph, 3),
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "ratio": round(seconds["dense"] / seconds["lanczos"], 1),
        "agreement": round(alike, 4),
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
