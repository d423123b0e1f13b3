"""Three heads on EfficientNet-Lite0, pretrained and untrained, and MAXA's ablations: three tasks, three seeds.

    python benchmarks/maxa_tasks.py DATA --out DIR                      # DATA holds camvid/ and rgbd/kitchen/
    accelerate launch --num_processes 2 benchmarks/maxa_tasks.py DATA --out DIR

The same as `dense-ctx bench` twice, in an order in which the first seed's tables come first. Cells that are done are
kept: run it again to go on, or with more --seeds. With --show nothing is run.
"""

import argparse
import sys
from pathlib import Path

from common import parse
from dense_ctx_bench.plan import Bench, BenchTask
from dense_ctx_bench.report import page, plots
from dense_ctx_bench.run import run_bench
from dense_ctx_bench.table import markdown

from dense_ctx.config import Part
from dense_ctx.files import read_json

LAYERS = {"layers": [-2, -1]}  # strides 16 and 32: a grid of 14 x 14 for 224 x 224 pixels
PRETRAINED, UNTRAINED = Part("efficientnet-lite0"), Part("efficientnet-lite0", {"weights": None})
# each head at the rate, of 1e-3, 2e-3 and 4e-3, that is best on the part of CamVid's training images that is held out
MAXA = Part("maxa", {**LAYERS, "lr": 4e-3})
LINEAR = Part("linear", {**LAYERS, "lr": 4e-3})
HEADS = (MAXA, Part("cnn", {**LAYERS, "width": 128, "lr": 2e-3}), LINEAR)
NUMBERS = {"size": 112, "steps": 1000, "room_steps": 200, "batch": 4}
TINY = {"size": 64, "steps": 2, "room_steps": 1, "batch": 2}
SWITCHES = ({"width": 16}, {"sigma": "none"}, {"sigma": "shared"}, {"depth": 1})
ABLATIONS = (MAXA, *(Part("maxa", {**MAXA.args, **switch}) for switch in SWITCHES))


def tasks(args):
    """CamVid's classes; depth and normals of the kitchen."""
    camvid = {"name": "camvid", "root": str(args.data / "camvid")}
    kitchen = {"name": "rgbd-folder", "root": str(args.data / "rgbd" / "kitchen")}
    depth = BenchTask("maxa-depth", kitchen, steps=args.room_steps)
    normals = BenchTask("maxa-normals", {**kitchen, "target": "normals"}, steps=args.room_steps)
    return BenchTask("maxa-semantic", camvid), depth, normals


def same(args, seeds):
    """What all benchmarks here have in common."""
    size = (args.size, args.size)
    return {"seeds": seeds, "size": size, "steps": args.steps, "batch_size": args.batch, "schedule": "cosine"}


def benches(args, seeds):
    """Name and benchmark, in the order in which they are run."""
    every, common = tasks(args), same(args, seeds)
    return [
        ("heads", Bench(args.out / "heads", (PRETRAINED,), HEADS, every, **common)),
        ("ablations", Bench(args.out / "ablations", (PRETRAINED,), ABLATIONS, every[1:2], **common)),
        ("heads", Bench(args.out / "heads", (UNTRAINED,), HEADS, every, **common)),
    ]


def report(cell, record):
    done = record["status"] == "done"
    value = f"{record['metric']} {record['value']:.4g}, {record['seconds']:.0f} s" if done else record["error"]
    words = f"{'untrained' if cell.backbone.args else 'pretrained'}, {cell.head.name} {dict(cell.head.args)}"
    print(f"{words}, {cell.task.objective}, seed {cell.seed}: {value}", file=sys.stderr, flush=True)


def write(args):
    """The tables of all cells there are."""
    for part in ("heads", "ablations"):
        order, records = [], []
        for name, bench in benches(args, tuple(args.seeds)):
            order += [bench.out / "cells" / f"{cell.name}.json" for cell in bench.cells() if name == part]
        records = [read_json(path) for path in order if path.exists()]
        if records:
            table = markdown(records)
            print(f"{part}: {len(records)} of {len(order)} cells\n\n{table}")
            folder = args.out / part
            (folder / "table.md").write_text(table, encoding="utf-8")
            (folder / "report.html").write_text(page(records), encoding="utf-8")
            for name, drawn in plots(records).items():
                (folder / f"{name}.svg").write_text(drawn, encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--show", action="store_true", help="only print the tables of what is done")
    for name, value in NUMBERS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value, help="(%(default)s)")
    args = parse(parser, **TINY, seeds=[0])
    for count in () if args.show else range(1, len(args.seeds) + 1):
        for _, bench in benches(args, tuple(args.seeds[:count])):
            run_bench(bench, report)
    write(args)


if __name__ == "__main__":
    main()
