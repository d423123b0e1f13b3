"""Do the gains of LILA, DIP and MAXA hold on other bases? The tables of docs/results/bases.md.

python benchmarks/bases.py DATA --out DIR [--bases NAME ...] [--seeds 0 1 2] [--only lila dip maxa] [--every 1]

DATA holds clips/ (unlabelled), davis2016/, camvid/ and rgbd/kitchen/. The recipes are those of benchmarks/lila.py,
dip.py and maxa_tasks.py, chosen on efficientnet-lite0, with another backbone in its place. The first seed of LILA comes
first, its other seeds last. Differences are paired by scene and seed, with 95 % intervals by the bootstrap over both. A
killed run goes on where it was: trainings and evaluations have folders of their own under DIR.
"""

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path

import dip
import lila
import maxa_tasks
import numpy as np
from common import in_process, machine, parse
from dense_ctx_bench.plan import Bench
from dense_ctx_bench.run import run_bench
from dense_ctx_benchmarks.intervals import paired
from dense_ctx_benchmarks.passes import BackbonePasses
from dense_ctx_benchmarks.trained_heads import scored_by_head

from dense_ctx.commands.arguments import progress
from dense_ctx.config import Part
from dense_ctx.data import open_set
from dense_ctx.evaluate import evaluate
from dense_ctx.evaluate.protocol import load_protocol
from dense_ctx.model_spec import open_model
from dense_ctx.visualize import text_table

BASES = tuple(f"efficientnet-lite{number}" for number in range(3))
MAPS = {"strides 4 to 16": "+upsample(layers=[0,1,2])", "four maps": "+upsample"}  # of LILA's backbone, as it is
DAVIS = {"DAVIS J&F, linear": "davis2016-linear-grid4-v1", "DAVIS J&F, k-NN": "davis2016-knn-grid8-v1"}
HEADS = {
    "CamVid mIoU": ("camvid-linear-grid4-v2", "camvid"),
    "kitchen depth RMSE": ("rgbd-depth-linear-grid4-v1", "rgbd/kitchen"),
}
SHOWN = (224, 224)  # to the network, for MAXA: the same pixels for each base
DIFFERENCES = {  # by system: one row minus another
    "lila": (("LILA", "start"), ("LILA", "strides 4 to 16"), ("LILA", "four maps"), ("start", "strides 4 to 16")),
    "dip": (("DIP", "base"),),
    "maxa": (("maxa", "linear"),),
}


class Scores:
    """Results of one system: base -> row -> seed of the training (None: not trained) -> title -> Result."""

    def __init__(self, differences):
        self.table, self.differences = {}, differences

    def add(self, base, row, seed, results):
        self.table.setdefault(base, {}).setdefault(row, {})[seed] = results
        values = ", ".join(f"{title} {self.number(title, result.value)}" for title, result in results.items())
        print(f"{base}, {row}{'' if seed is None else f', seed {seed}'}: {values}", flush=True)

    @staticmethod
    def number(title, value, sign=""):
        return f"{value:{sign}.3f}" if "RMSE" in title else f"{100 * value:{sign}.1f}"

    def scenes(self, base, row, title, seeds):
        """{scene: {seed: score}} x 100, RMSE as it is; a row that is not trained stands beside each seed."""
        by_seed, factor = self.table[base][row], 1 if "RMSE" in title else 100
        each = {}
        for seed in seeds:
            result = by_seed[seed if seed in by_seed else None][title]
            for scene, draws in result.scenes.items():
                each.setdefault(scene, {})[str(seed)] = factor * float(np.mean([*draws.values()]))
        return each

    def difference(self, base, one, other, title):
        trained = [set(seeds) - {None} for seeds in (self.table[base][one], self.table[base][other])]
        seeds = sorted(set.intersection(*(some for some in trained if some)))
        apart = paired(*(self.scenes(base, row, title, seeds) for row in (one, other)))
        return apart.text("+.3f" if "RMSE" in title else "+.1f")

    def cell(self, base, row, title):
        values = [results[title].value for results in self.table[base][row].values()]
        spread = f" ± {self.number(title, statistics.stdev(values))}" if len(values) > 1 else ""
        return self.number(title, statistics.mean(values)) + spread

    def lines(self):
        lines = []
        for base, rows in self.table.items():
            titles = list(next(iter(next(iter(rows.values())).values())))
            lines = lines or [["base", "features", "seeds", *titles]]
            for row, seeds in rows.items():
                count = "" if None in seeds else " ".join(map(str, seeds))
                lines.append([base, row, count, *(self.cell(base, row, title) for title in titles)])
            for one, other in self.differences:
                if {one, other} <= set(rows):
                    apart = [self.difference(base, one, other, title) for title in titles]
                    lines.append([base, f"{one} - {other}", "", *apart])
        return text_table(lines)


def run_lila(scores, seeds, args):
    videos = lila.thinned(open_set("davis2016", args.data / "davis2016", "val"), args.every)
    if args.quick:
        first = videos.clips[0]
        videos = replace(videos, clips=(replace(first, frames=first.frames[:4], masks=first.masks[:4]),))
    settings = [*lila.QUICK, "objective.args.start=8"] if args.quick else []
    steps = 2 if args.quick else None
    for base in args.bases:
        out = args.out / "lila" / base
        own = argparse.Namespace(out=out, clips=args.data / "clips", backbone=base, steps=steps, settings=settings)

        def measure(row, seed, spec, base=base, out=out):
            model, results = open_model(str(spec)), {}
            name = lila.slug(row) if seed is None else f"{lila.slug(row)}-{seed}"
            for title, protocol in DAVIS.items():
                with args.passes.shared(model.backbone, "bfloat16"):
                    results[title] = evaluate(
                        model, protocol, videos, out / "results" / f"every-{args.every}" / name / protocol,
                        name=name, overrides=["precision=bfloat16"], progress=progress,
                    )  # fmt: skip
            scores.add(base, row, seed, results)

        for row, spec in MAPS.items():
            measure(row, None, base + spec)
        for seed in seeds:
            for row, name in (("start", "start, not trained"), ("LILA", "lila")):
                measure(row, seed, in_process(lila.trained, name, seed, own))  # decoded frames, gigabytes, go with it
    print(f"backbone passes: {args.passes.computed} computed, {args.passes.read} read again", flush=True)


def run_dip(scores, seeds, args):
    images, settings = args.out / "dip" / "images", [*dip.QUICK, "batch_size=2"] if args.quick else []
    numbers = dip.TINY if args.quick else dip.NUMBERS
    for base in args.bases:
        own = argparse.Namespace(
            **numbers, out=args.out / "dip" / base, data=args.data, images=images, backbone=base,
            settings=settings, quick=args.quick,
        )  # fmt: skip
        scores.add(base, "base", None, dip.results(base + dip.BASE, "base", own))
        for seed in seeds:
            scores.add(base, "DIP", seed, dip.results(dip.trained("dip", seed, own), f"dip-{seed}", own))


def run_maxa(scores, seeds, args):
    numbers = argparse.Namespace(**(maxa_tasks.TINY if args.quick else maxa_tasks.NUMBERS), data=args.data)
    camvid, depth, _ = maxa_tasks.tasks(numbers)
    heads = (maxa_tasks.MAXA, maxa_tasks.LINEAR)
    backbones = tuple(Part(base) for base in args.bases)
    bench = Bench(
        args.out / "maxa", backbones, heads, (camvid, depth), image_size=SHOWN, **maxa_tasks.same(numbers, tuple(seeds))
    )
    run_bench(bench, maxa_tasks.report)
    cells = {(c.backbone.name, c.head.name, c.task.objective, c.seed): c.name for c in bench.cells()}
    for base in args.bases:
        for head in heads:
            for seed in seeds:
                results = {}
                for task, (title, (protocol, folder)) in zip((camvid, depth), HEADS.items(), strict=True):
                    name = cells[base, head.name, task.objective, seed]
                    model = open_model(str(bench.out / "runs" / name / "model"))
                    results[title] = evaluate(
                        model, scored_by_head(model, load_protocol(protocol)), args.data / folder,
                        args.out / "maxa" / "results" / name, name=name, limit=2 if args.quick else None,
                    )  # fmt: skip
                scores.add(base, head.name, seed, results)


SYSTEMS = {"lila": run_lila, "dip": run_dip, "maxa": run_maxa}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--bases", nargs="+", default=list(BASES), metavar="NAME", help="of five stages, strides 2 to 32"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=list(SYSTEMS), default=list(SYSTEMS))
    parser.add_argument("--every", type=int, default=1, help="every so many frames of DAVIS are measured (%(default)s)")
    args = parse(parser, bases=list(BASES[1:2]), seeds=[0])
    args.passes = BackbonePasses(args.out / ".features", 8 << 30)
    scores = {name: Scores(DIFFERENCES[name]) for name in args.only}
    later = [("lila", [seed]) for seed in args.seeds[1:]] if "lila" in args.only else []
    order = [(name, args.seeds[:1] if name == "lila" else args.seeds) for name in args.only] + later
    for name, seeds in order:
        SYSTEMS[name](scores[name], seeds, args)
        print(f"\n{name}\n\n{scores[name].lines()}\n", flush=True)
    args.passes.remove()
    print(f"{machine()}; {time.strftime('%Y-%m-%d')}")


if __name__ == "__main__":
    main()
