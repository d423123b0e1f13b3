"""The table of docs/results/lila.md: LILA on EfficientNet-Lite0, its ablations, and the frozen network below it.

python benchmarks/lila.py CLIPS DATA --out DIR [--backbone NAME] [--seeds 0 1 2] [--only lila ...] [KEY=VALUE ...]

CLIPS is a folder of unlabelled clips; DATA holds davis2016/ and vos_multi/schoolgirls/. A killed run goes on where it
was: every training and every evaluation has a folder of its own under DIR. Networks run in bfloat16 when measured,
frozen and trained alike (`--precision float32`: as the protocols have it). KEY=VALUE goes on top of every training's
configuration.
"""

import argparse
import statistics
import time
from pathlib import Path

from common import machine, parse

from dense_ctx.commands.arguments import VerbParser, add_settings, progress, settings_of
from dense_ctx.evaluate import evaluate
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
}
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
    """J&F x 100 by protocol."""
    found = {}
    for protocol in args.protocols:
        out = args.out / "results" / name / protocol
        model = open_model(str(spec))
        precision = [] if args.precision == "float32" else [f"precision={args.precision}"]
        result = evaluate(
            model, protocol, args.data / PROTOCOLS[protocol], out,
            name=name, overrides=precision, limit=args.limit, progress=progress,
        )  # fmt: skip
        found[protocol] = 100 * result.value
    return found


def slug(name):
    return name.replace(",", "").replace(" ", "-")


def trained(name, seed, args):
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
    parser.add_argument("--only", nargs="+", choices=["frozen", *TRAINED])
    parser.add_argument("--frozen", nargs="+", choices=list(FROZEN), default=list(FROZEN), metavar="MAPS")
    parser.add_argument("--protocols", nargs="+", choices=list(PROTOCOLS), default=list(PROTOCOLS), metavar="ID")
    parser.add_argument("--limit", type=int, help="first so many sequences")
    parser.add_argument("--precision", default="bfloat16", choices=["bfloat16", "float32"])
    add_settings(parser, "changes a training, such as batch_size=2")
    args = parse(
        parser, steps=2, seeds=[0], only=["frozen", "lila"], frozen=["map at stride 16"], limit=1,
        protocols=["davis2016-linear-grid4-v1", "vos-folder-knn-grid8-v1"],
    )  # fmt: skip
    args.settings = (QUICK if args.quick else []) + settings_of(args)
    lines = [["features", *args.protocols]]
    if args.only is None or "frozen" in args.only:
        for name in args.frozen:
            scores = measured(args.backbone + FROZEN[name], f"frozen-{slug(name)}", args)
            lines.append([f"frozen, {name}", *(f"{scores[protocol]:.1f}" for protocol in args.protocols)])
            print(lines[-1], flush=True)
    for name in args.only or TRAINED:
        if name == "frozen":
            continue
        seeds = args.seeds if name in EVERY_SEED else args.seeds[:1]
        rows = [measured(trained(name, s, args), f"{slug(name)}-{s}", args) for s in seeds]
        cells = []
        for protocol in args.protocols:
            values = [row[protocol] for row in rows]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{spread}")
        lines.append([f"{name} ({len(seeds)} seeds)" if len(seeds) > 1 else name, *cells])
        print(lines[-1], flush=True)
    print("\nJ&F in %, mean ± sample standard deviation over seeds\n\n" + table(lines))
    print(f"\n{machine()}; {time.strftime('%Y-%m-%d')}")


if __name__ == "__main__":
    main()
