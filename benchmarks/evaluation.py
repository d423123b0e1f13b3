"""The tables of docs/results/evaluation.md: every protocol that fits two CPU cores, for a few models.

python benchmarks/evaluation.py DATA --out DIR [--models SPEC ...] [--protocols ID ...]

DATA holds davis2016/, camvid/ and rgbd/kitchen/ in their official layouts. A killed run goes on where it was.
"""

import argparse
import platform
import sys
import time
from pathlib import Path

import torch
from common import parse
from dense_ctx_benchmarks.compare import compare

from dense_ctx.commands.arguments import progress
from dense_ctx.evaluate import evaluate
from dense_ctx.model_spec import open_model

MODELS = ["rgb-xy+upsample(normalize=False)", "efficientnet-lite0+upsample"]
# protocol, folder of its data, seeds (those on video are the same for every seed: nothing in them is drawn)
RUNS = [
    ("davis2016-linear-grid4-v1", "davis2016", (0,)),
    ("davis2016-knn-grid8-v1", "davis2016", (0,)),
    ("camvid-linear-grid4-v1", "camvid", (0, 1, 2)),
    ("camvid-linear-grid4-v2", "camvid", (0, 1, 2)),
    ("camvid-retrieval-grid8-v1", "camvid", (0, 1, 2)),
    ("rgbd-normals-grid4-v1", "rgbd/kitchen", (0, 1, 2)),
    ("rgbd-depth-linear-grid4-v1", "rgbd/kitchen", (0, 1, 2)),
    ("rgbd-depth-attention-grid4-v1", "rgbd/kitchen", (0, 1, 2)),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("dense-ctx-results"))
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--protocols", nargs="+", choices=[run[0] for run in RUNS], help="some of them only")
    args = parse(parser, models=MODELS[:1])
    quick = {"limit": 1, "overrides": ("image.short_side=48",)} if args.quick else {}
    began = time.monotonic()
    tables = []
    for protocol, folder, seeds in RUNS:
        if args.protocols and protocol not in args.protocols:
            continue
        results = []
        for spec in args.models:
            out = args.out / protocol / spec.split("(")[0].replace("/", "_")
            options = {"name": spec, "seeds": seeds, "cache": "10GB", "progress": progress, **quick}
            result = evaluate(open_model(spec), protocol, args.data / folder, out, **options)
            results.append(result)
            print(f"{protocol}  {spec}  {result.metric} {result.value:.4f}", file=sys.stderr)
        tables.append(compare(results))
        print("\n" + tables[-1], flush=True)
    minutes = (time.monotonic() - began) / 60
    print(
        f"\n{minutes:.0f} minutes on {platform.machine()}, {torch.get_num_threads()} threads, "
        f"PyTorch {torch.__version__}, {time.strftime('%Y-%m-%d')}"
    )


if __name__ == "__main__":
    main()
