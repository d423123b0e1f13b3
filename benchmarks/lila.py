"""The table of docs/results/lila.md: LILA on EfficientNet-Lite0, its ablations, and the frozen network below it.

python benchmarks/lila.py CLIPS DATA --out DIR [--backbone NAME] [--seeds 0 1 2] [--only lila ...] [KEY=VALUE ...]

CLIPS is a folder of unlabelled clips; DATA holds davis2016/ and vos_multi/schoolgirls/. A killed run goes on where it
was: every training and every evaluation has a folder of its own under DIR. Networks run in bfloat16 when measured,
frozen and trained alike (`--precision float32`: as the protocols have it). `--every 2` measures every second frame of
each sequence. Where "start, not trained", "lila" or "bundled" (the model `lila-lite0`, seed 0) is among the rows, the
others' differences from it follow, paired by sequence and seed, with 95 % intervals by the bootstrap over both;
`--tuned` are reported apart. `--losses N`: the L1 of each cue on the query, in standard deviations, over N fixed pairs
of DAVIS-2016, and that of the true masks, which no training saw. KEY=VALUE goes on top of every training's
configuration.
"""

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path

from common import machine, parse
from dense_ctx_benchmarks.intervals import paired
from dense_ctx_benchmarks.passes import BackbonePasses
from dense_ctx_lila.open_clips import open_clips
from lila_limits import MaskedPairs, errors, objective_of

from dense_ctx.commands.arguments import VerbParser, add_settings, progress, settings_of
from dense_ctx.data import open_set
from dense_ctx.evaluate import evaluate
from dense_ctx.evaluate.protocol import load_protocol
from dense_ctx.model_spec import open_model
from dense_ctx.train import TrainConfig, train
from dense_ctx.visualize import text_table as table

PRESET = "lila-lite0"
FROZEN = {  # of the backbone
    "all five maps": "(layers=[0,1,2,3,4])+upsample",
    "four maps": "+upsample",
    "maps at strides 4 to 16": "(layers=[1,2,3])+upsample",
    "map at stride 4": "(layers=[1])+upsample",
    "map at stride 8": "(layers=[2])+upsample",
    "map at stride 16": "(layers=[3])+upsample",
    "map at stride 32, the last": "(layers=[4])+upsample",
}
TRAINED = {  # settings on top of the configuration
    "start, not trained": ["steps=1", "average.start=0", "optimizer.lr=1e-12"],
    "lila": [],
    "erm": ["objective.args.mode=erm"],
    "no PAMR": ["objective.args.features.pamr=false"],
    "no crops": ["objective.args.sampling.crop=[1.0,1.0]"],
    "no gap in time": ["objective.args.sampling.same_frame=true"],
    "no edge loss": ["objective.args.gamma=0.0"],
    "no features cue": ["objective.args.cues=['flow:dis']"],
    "no flow cue": ["objective.args.cues=[features]"],
    "context detached": ["objective.args.context=detached"],
    "context ema": ["objective.args.context=ema"],
    "flow check": ["objective.args.sampling.flow_check=true"],
    "synthetic motion": ["objective.args.sampling.synthetic=0.5"],
    "synthetic motion and layers": [
        "objective.args.sampling.synthetic=0.5", "objective.args.cues=[features,'flow:dis',layers]",
    ],
    "refined cues": ["objective.args.refine=0.5"],
    "anchor": ["objective.args.anchor=1.0"],
    "edges, texture and shading": ["objective.args.cues=[features,'flow:dis',edges,texture,shading]"],
}  # fmt: skip
TUNED = ("bmx-trees", "car-roundabout", "goat")  # the sequences that options are chosen on
BUNDLED = "bundled"  # the model of the package, in place of a training
BASES = ("start, not trained", "lila", BUNDLED)  # that the other rows are compared with
QUICK = [  # settings of a training that says nothing
    "average.start=0", "schedule.warmup=0", "batch_size=1", "objective.args.sampling.size=96",
    "objective.args.sampling.map_size=48", "objective.args.sampling.cue_side=64",
]  # fmt: skip
EVERY_SEED = ("start, not trained", "lila", "erm")
PROTOCOLS = {  # and their data
    "davis2016-linear-grid4-v1": "davis2016",
    "davis2016-knn-grid8-v1": "davis2016",
    "vos-folder-linear-grid4-v1": "vos_multi/schoolgirls",
    "vos-folder-knn-grid8-v1": "vos_multi/schoolgirls",
}


def measured(spec, name, args):
    """Result by protocol."""
    results, model = {}, open_model(str(spec))
    for protocol in args.protocols:
        # what --every leaves out is not in the protocol's id, so it is in the folder's name
        out = args.out / "results" / name / (protocol if args.every == 1 else f"{protocol}-every{args.every}")
        precision = [] if args.precision == "float32" else [f"precision={args.precision}"]
        with args.passes.shared(model.backbone, load_protocol(protocol, precision).precision):
            results[protocol] = evaluate(
                model, protocol, sequences(protocol, args), out,
                name=name, overrides=precision, limit=args.limit, progress=progress,
            )  # fmt: skip
    return results


def sequences(protocol, args):
    """The protocol's data; every second frame of each, or so."""
    root = args.data / PROTOCOLS[protocol]
    if args.every == 1:
        return root
    spec = load_protocol(protocol)
    return thinned(open_set(spec.data.name, root, spec.data.val), args.every)


def thinned(videos, every):
    """Every so many frames of each clip."""
    clips = [replace(c, frames=c.frames[::every], masks=c.masks[::every]) for c in videos.clips]
    return replace(videos, clips=tuple(clips))


def differences(rows, protocols, tuned):
    """Of each row from the bases, over the sequences of each protocol: {row: {protocol: {sequence: {seed: J&F}}}}."""
    lines = [["J&F", *protocols]]
    for base in BASES:
        for name in rows if base in rows else ():
            if name == base:
                continue
            for group in ("all", "tuned on", "others") if tuned else ("all",):
                cells = []
                for protocol in protocols:
                    one, other = (
                        {scene: each for scene, each in rows[row][protocol].items()
                         if group == "all" or (scene in tuned) == (group == "tuned on")}
                        for row in (name, base)
                    )  # fmt: skip
                    difference = paired(one, other)
                    cells.append("-" if difference is None else difference.text("+.1f"))
                lines.append([f"{name} - {base}, {group}", *cells])
    return lines


class Losses:
    """What is left of each part of the loss, on pixels that move by themselves and on others, for a table."""

    def __init__(self, args):
        self.pairs, self.lines = args.losses, []
        if self.pairs:
            self.objective = objective_of(TrainConfig.load(PRESET, args.settings), ("features", "flow:dis", "mask"))
            videos = open_clips(open_set("davis2016", args.data / "davis2016", "val"))
            self.data = MaskedPairs(videos, self.objective.sampling, self.objective.cues.light)

    def add(self, name, folders):
        """The mean over trainings."""
        if not self.pairs:
            return
        each = [errors(open_model(str(folder)), self.objective, self.data, self.pairs)[0] for folder in folders]
        columns = [f"{cue}, {where}" for cue in each[0] for where in ("moving", "others")]
        self.lines = self.lines or [["L1", *columns]]
        values = [[value for pair in one.values() for value in pair] for one in each]
        self.lines.append([name, *(f"{statistics.mean(column):.3f}" for column in zip(*values, strict=True))])


def slug(name):
    return name.replace(",", "").replace(" ", "-")


def trained(name, seed, args):
    if name == BUNDLED:
        return PRESET
    out = args.out / "runs" / f"{slug(name)}-{seed}"
    steps = [f"steps={args.steps}"] if args.steps else []
    same = [f"out={out}", f"data={args.clips}", f"seed={seed}", f"model.backbone.name={args.backbone}"]
    settings = [*same, *steps, *args.settings, *TRAINED[name]]
    return train(TrainConfig.load(PRESET, settings))


def main():
    parser = VerbParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--backbone", default="efficientnet-lite0", help="of five stages, strides 2 to 32 (%(default)s)"
    )
    parser.add_argument("--steps", type=int, help="in place of the configuration's")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--every-seed", action="store_true", help=f"of all rows, not of {', '.join(EVERY_SEED)} alone")
    parser.add_argument("--only", nargs="+", choices=["frozen", BUNDLED, *TRAINED])
    parser.add_argument("--frozen", nargs="+", choices=list(FROZEN), default=list(FROZEN), metavar="MAPS")
    parser.add_argument("--protocols", nargs="+", choices=list(PROTOCOLS), default=list(PROTOCOLS), metavar="ID")
    parser.add_argument("--limit", type=int, help="first so many sequences")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="measure every N-th frame (%(default)s)")
    parser.add_argument(
        "--losses", type=int, default=0, metavar="N", help="pairs whose losses are compared (%(default)s)"
    )
    parser.add_argument("--tuned", nargs="*", default=list(TUNED), metavar="NAME", help="(%(default)s)")
    parser.add_argument("--precision", default="bfloat16", choices=["bfloat16", "float32"])
    add_settings(parser, "changes a training, such as batch_size=2")
    args = parse(
        parser, steps=2, seeds=[0], only=["frozen", "lila"], frozen=["map at stride 16"], limit=1,
        protocols=["davis2016-linear-grid4-v1", "vos-folder-knn-grid8-v1"], losses=1,
    )  # fmt: skip
    args.settings = (QUICK if args.quick else []) + settings_of(args)
    args.passes = BackbonePasses(args.out / ".features", 8 << 30)  # all have one backbone
    lines, rows, losses = [["features", *args.protocols]], {}, Losses(args)
    if args.only is None or "frozen" in args.only:
        for name in args.frozen:
            scores = measured(args.backbone + FROZEN[name], f"frozen-{slug(name)}", args)
            lines.append([f"frozen, {name}", *(f"{100 * scores[protocol].value:.1f}" for protocol in args.protocols)])
            print(lines[-1], flush=True)
    for name in args.only or TRAINED:
        if name == "frozen":
            continue
        seeds = args.seeds if name in EVERY_SEED or args.every_seed else args.seeds[:1]
        folders = {s: trained(name, s, args) for s in seeds}
        results = {s: measured(folder, f"{slug(name)}-{s}", args) for s, folder in folders.items()}
        losses.add(name, folders.values())
        cells = []
        for protocol in args.protocols:
            values = [100 * each[protocol].value for each in results.values()]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{spread}")
            scenes = rows.setdefault(name, {}).setdefault(protocol, {})
            for seed, each in results.items():
                for scene, scores in each[protocol].scenes.items():
                    scenes.setdefault(scene, {})[str(seed)] = 100 * scores["0"]
        lines.append([f"{name} ({len(seeds)} seeds)" if len(seeds) > 1 else name, *cells])
        print(lines[-1], flush=True)
    args.passes.remove()
    print("\nJ&F in %, mean ± sample standard deviation over seeds\n\n" + table(lines))
    print("\ndifferences\n\n" + table(differences(rows, args.protocols, set(args.tuned))))
    if losses.lines:
        print("\nL1 on the query, mean over seeds\n\n" + table(losses.lines))
    print(f"\n{machine()}; {time.strftime('%Y-%m-%d')}")


if __name__ == "__main__":
    main()
