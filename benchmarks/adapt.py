"""Does `dense-ctx adapt` help? Each sequence's own unlabelled frames, and as many steps on other clips as a control.

python benchmarks/adapt.py CLIPS DATA --out DIR [--seeds 0 1 2] [--sequences NAME ...] [KEY=VALUE ...]

CLIPS is a folder of unlabelled clips, the control's; DATA is the root of DAVIS-2016. J and F of every frame by linear
probe and by local k-NN; differences are paired by sequence and seed, with 95 % intervals by the bootstrap over both, as
`dense-ctx compare` has them. A killed run goes on where it was. `--tuned`: sequences that chose the preset, reported
apart. KEY=VALUE changes every training.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from common import machine, parse
from dense_ctx_benchmarks.intervals import paired
from dense_ctx_benchmarks.passes import BackbonePasses

from dense_ctx.commands.arguments import VerbParser, add_settings, settings_of
from dense_ctx.data import open_set
from dense_ctx.evaluate import evaluate
from dense_ctx.evaluate.protocol import load_protocol
from dense_ctx.model_spec import open_model
from dense_ctx.train import TrainConfig, train
from dense_ctx.visualize import text_table

PRESET, START = "lila-adapt", "lila-lite0"
PROTOCOLS = {"linear": "davis2016-linear-grid4-v1", "k-NN": "davis2016-knn-grid8-v1"}
TUNED = ("bmx-trees", "car-roundabout", "goat")  # the sequences that chose the preset
QUICK = ["schedule.warmup=0", "batch_size=1", "objective.args.sampling.size=96", "objective.args.sampling.map_size=48",
         "objective.args.sampling.cue_side=64"]  # fmt: skip


class Scores:
    """J and F x 100: method -> (probe, letter) -> sequence -> seed -> value."""

    def __init__(self, sets, args):
        self.sets, self.args, self.table = sets, args, {}
        self.passes = BackbonePasses(args.out / ".features", 8 << 30)  # every model has the same backbone

    def measure(self, method, seed, name, spec):
        model = open_model(str(spec))
        for probe, protocol in PROTOCOLS.items():
            with self.passes.shared(model.backbone, load_protocol(protocol).precision):
                out = self.args.out / "results" / f"{method}-{seed}" / name / protocol
                result = evaluate(model, protocol, self.sets[name], out, name=f"{method}-{seed}")
            for letter in "JF":
                cells = self.table.setdefault(method, {}).setdefault((probe, letter), {}).setdefault(name, {})
                cells[str(seed)] = 100 * result.scores[f"{letter}-Mean"]

    def seeds(self, method, key, names):
        """Of the sequences named; the start, which has one seed, beside each of the others'."""
        cells = {name: self.table[method][key][name] for name in names}
        if method != "start":
            return cells
        return {name: dict.fromkeys(map(str, self.args.seeds), row["0"]) for name, row in cells.items()}

    def lines(self, names):
        """A table of means, and of differences with intervals."""
        keys = [(probe, letter) for probe in PROTOCOLS for letter in "JF"]
        rows = [["", *(f"{probe} {letter}" for probe, letter in keys)]]
        for method in self.table:
            values = [[v for row in self.seeds(method, key, names).values() for v in row.values()] for key in keys]
            rows.append([method, *(f"{sum(one) / len(one):.1f}" for one in values)])
        for one, other in (("adapted", "start"), ("control", "start"), ("adapted", "control")):
            if {one, other} <= set(self.table):
                apart = [paired(self.seeds(one, key, names), self.seeds(other, key, names)) for key in keys]
                rows.append([f"{one} - {other}", *(difference.text("+.1f") for difference in apart)])
        return text_table(rows)

    def each(self, names):
        """A table of each sequence: the start, and how far the others are above it, mean over seeds."""
        keys = [(probe, letter) for probe in PROTOCOLS for letter in "JF"]
        rows = [["", *(f"{probe} {letter}" for probe, letter in keys)]]
        for name in names:
            for method in self.table:
                means = [np.mean([*self.seeds(method, key, [name])[name].values()]) for key in keys]
                if method == "start":
                    start = means
                    rows.append([f"{name}, start", *(f"{value:.1f}" for value in means)])
                else:
                    rows.append([f"{name}, {method}", *(f"{a - b:+.1f}" for a, b in zip(means, start, strict=True))])
        return text_table(rows)


def own_frames(clip, folder):
    """The clip's frames, without its masks, in a folder of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in clip.frames:
        if not (folder / path.name).exists():
            (folder / path.name).symlink_to(path.resolve())
    return folder


def adapted(data, out, seed, args):
    steps = [f"steps={args.steps}"] if args.steps else []
    began = time.process_time()
    config = TrainConfig.load(PRESET, [f"seed={seed}", *steps, *args.settings])
    folder = train(replace(config, model=START, data=str(data), out=str(out)))
    print(f"{out.name}: {time.process_time() - began:.0f} CPU seconds", flush=True)
    return folder


def main():
    parser = VerbParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("data", type=Path, help="root of DAVIS-2016")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="in place of the preset's")
    parser.add_argument("--sequences", nargs="+", metavar="NAME", help="default: all of the data")
    parser.add_argument("--tuned", nargs="*", default=list(TUNED), metavar="NAME", help="(%(default)s)")
    add_settings(parser, "changes every training")
    args = parse(parser, steps=2, seeds=[0])
    args.settings = (QUICK if args.quick else []) + settings_of(args)
    videos = open_set("davis2016", args.data, "val")
    clips = {clip.name: clip for clip in videos.clips if not args.sequences or clip.name in args.sequences}
    if args.quick:
        clips = {n: replace(c, frames=c.frames[:4], masks=c.masks[:4]) for n, c in list(clips.items())[:1]}
    sets = {name: replace(videos, clips=(clip,)) for name, clip in clips.items()}
    scores = Scores(sets, args)
    for name in sets:
        scores.measure("start", 0, name, START)
    for seed in args.seeds:
        other = adapted(args.clips, args.out / "runs" / f"control-{seed}", seed, args)
        for name, clip in clips.items():
            frames = own_frames(clip, args.out / "frames" / name)
            own = adapted(frames, args.out / "runs" / f"{name}-{seed}", seed, args)
            scores.measure("adapted", seed, name, own)
            scores.measure("control", seed, name, other)
            rows = {method: {" ".join(key): cells[name] for key, cells in table.items()}
                    for method, table in scores.table.items()}  # fmt: skip
            print(name, json.dumps(rows), flush=True)
    scores.passes.remove()
    groups = {"tuned on": [n for n in sets if n in args.tuned], "others": [n for n in sets if n not in args.tuned]}
    for title, names in {**groups, "all": list(sets)}.items():
        if names:
            print(f"\n{title}: {', '.join(names)}\n\n{scores.lines(names)}")
    print(f"\neach, mean over seeds\n\n{scores.each(list(sets))}")
    print(f"\n{machine()}; {time.strftime('%Y-%m-%d')}")


if __name__ == "__main__":
    main()
