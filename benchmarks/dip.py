"""The table of docs/results/dip.md: DIP on EfficientNet-Lite0, its ablations, and the network as it was.

python benchmarks/dip.py DATA --out DIR [--backbone NAME] [--seeds 0 1 2] [--only dip direct ...] [KEY=VALUE ...]

DATA holds clips/ (unlabelled videos), camvid/ and rgbd/kitchen/. Post-training sees frames of the clips and CamVid's
training images, without labels. A killed run goes on where it was: tasks, trainings and evaluations have folders of
their own under DIR. KEY=VALUE goes on top of every training's configuration.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
from common import machine, parse
from dense_ctx_dip.task_settings import TaskSettings
from dense_ctx_dip.tasks import make_tasks
from PIL import Image

from dense_ctx.commands.arguments import VerbParser, add_settings, progress, settings_of
from dense_ctx.config import Part
from dense_ctx.data.video import Video
from dense_ctx.evaluate import evaluate
from dense_ctx.model_spec import open_model
from dense_ctx.train import TrainConfig, train
from dense_ctx.visualize import text_table as table

PRESET = "dip-lite0"
WHOLE = "+upsample"  # of the backbone
BASE = "(layers=[2,3])+upsample"  # up to the maps at stride 16
SIDE = 320  # short side of the images
TASKS = {  # what pseudo-labels are made of: features of the whole network's last map
    "ncut": {"segmenter": Part("ncut", {"alpha": 6, "tau": 0.5})},
    "patches": {"segmenter": Part("patches")},
}
TRAINED = {  # tasks, and settings on top of the configuration
    "dip": ("ncut", []),
    "no distractors": ("ncut", ["objective.args.distractors=0"]),
    "two crops": ("ncut", ["objective.args.positives=crops"]),
    "no segments": ("patches", []),
    "direct": ("ncut", ["objective.args.direct=true"]),
    "official loss": ("ncut", ["objective.args.loss=official"]),
    "projector": ("ncut", ["objective.args.out=512", "objective.args.hidden=4"]),
}
NUMBERS, TINY = {"steps": 80, "classes": 256, "frames": 4}, {"steps": 2, "classes": 8, "frames": 1}
QUICK = ["schedule.warmup=0"]  # settings of a training that says nothing
DRAWS = (0, 1, 2)  # of the support images where only some are used: one draw moves mIoU by points
SMALL = ("image.short_side=192", "probe.args.memory=30000")  # as shown to the network, rows of the bank
PROTOCOLS = {  # title: protocol, folder, settings
    "CamVid mIoU": ("camvid-retrieval-v2", "camvid", SMALL),
    "CamVid mIoU, 1/8": ("camvid-retrieval-v2", "camvid", ("data.fraction=0.125", *SMALL)),
    "kitchen depth RMSE": ("rgbd-retrieval-depth-v1", "rgbd/kitchen", SMALL),
}


def images(args):
    """A folder of `args.frames` frames of each clip and of every fourth training image of CamVid."""
    folder = args.images
    if folder.is_dir():
        return folder
    partial = folder.with_name(f".{folder.name}")
    partial.mkdir(parents=True, exist_ok=True)
    for path in sorted((args.data / "clips").iterdir()):
        clip = Video(path)
        numbers = set(np.linspace(0, max(0, len(clip) - 3), args.frames).round().astype(int).tolist())
        for number, frame in enumerate(clip):
            if number in numbers:
                write(Image.fromarray(frame), partial / f"{path.stem}-{number:05d}.jpg")
    for path in sorted((args.data / "camvid" / "train" / "images").iterdir())[::4]:
        write(Image.open(path).convert("RGB"), partial / f"camvid-{path.stem}.jpg")
    return partial.rename(folder)


def write(image, path):
    scale = SIDE / min(image.size)
    image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC).save(
        path, quality=92
    )


def tasks(kind, args):
    folder, whole = args.out / "tasks" / kind, args.backbone + WHOLE
    settings = {"side": SIDE, "classes": args.classes, **TASKS[kind]}
    return make_tasks(images(args), folder, open_model(whole), TaskSettings(**settings), whole, progress)


def main():
    parser = VerbParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--backbone", default="efficientnet-lite0", help="of five stages, strides 2 to 32 (%(default)s)"
    )
    for name, value in NUMBERS.items():
        parser.add_argument(f"--{name}", type=int, default=value, help="(%(default)s)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=["base", *TRAINED])
    add_settings(parser, "changes a training, such as batch_size=4")
    args = parse(parser, **TINY, seeds=[0], only=["base", "dip"])
    args.settings, args.images = (QUICK if args.quick else []) + settings_of(args), args.out / "images"
    lines = []
    bases = {"base": BASE, "whole network, last map": WHOLE} if args.only is None or "base" in args.only else {}
    for name, spec in bases.items():
        lines.append([name, *cells([measured(args.backbone + spec, name.replace(" ", "-").replace(",", ""), args)])])
        print(lines[-1], flush=True)
    rows = {name: [] for name in TRAINED if args.only is None or name in args.only}
    for seed in args.seeds:  # every variant once before any comes again, so that a part of the table is of use
        for name, scores in rows.items():
            label = f"{name.replace(' ', '-')}-{seed}"
            scores.append(measured(trained(name, seed, args), label, args))
            print(label, cells(scores[-1:]), flush=True)
    lines += [[name, *cells(scores)] for name, scores in rows.items()]
    print(
        f"\nmean ± sample standard deviation over trainings {args.seeds}; 1/8 is the mean of {len(DRAWS)} draws\n\n"
        + table([["features", *PROTOCOLS], *lines])
    )
    print(f"\n{args.steps} steps; {machine()}; {time.strftime('%Y-%m-%d')}")


def trained(name, seed, args):
    kind, changes = TRAINED[name]
    out = args.out / "runs" / f"{name.replace(' ', '-')}-{seed}"
    data = tasks(kind, args)
    same = [f"out={out}", f"data={data}", f"steps={args.steps}", f"seed={seed}", f"model.backbone.name={args.backbone}"]
    return train(TrainConfig.load(PRESET, [*same, *changes, *args.settings]))


def measured(spec, name, args):
    """Value by protocol, mean over draws of the support."""
    return {title: result.value for title, result in results(spec, name, args).items()}


def results(spec, name, args):
    """Result by protocol, its seeds the draws of the support."""
    by_title = {}
    for title, (protocol, folder, settings) in PROTOCOLS.items():
        out = args.out / "results" / name / protocol_id(title)
        if args.quick:
            settings = (*settings, "image.short_side=96", "probe.args.memory=2000")
        draws = DRAWS if "1/8" in title else DRAWS[:1]
        by_title[title] = evaluate(
            open_model(str(spec)), protocol, args.data / folder, out,
            name=name, overrides=settings, seeds=draws, limit=2 if args.quick else None, cache="1GB", progress=progress,
        )  # fmt: skip
    return by_title


def protocol_id(title):
    return title.lower().replace(" ", "-").replace(",", "").replace("/", "-")


def cells(scores):
    """Table cells: IoU in %, depth in metres."""
    texts = []
    for title in PROTOCOLS:
        factor, digits = (100, 1) if "mIoU" in title else (1, 3)
        values = [factor * score[title] for score in scores]
        spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
        texts.append(f"{statistics.mean(values):.{digits}f}{spread}")
    return texts


if __name__ == "__main__":
    main()
