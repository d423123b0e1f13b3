"""The table of docs/results/composed.md: a network as it is, with DIP, with LILA, and LILA on top of DIP.

python benchmarks/composed.py DATA --out DIR [--seeds 0 1 2] [--quick]

DATA holds clips/ (unlabelled videos), davis2016/, camvid/ and rgbd/kitchen/. Everything starts from the maps of
EfficientNet-Lite0 at strides 4, 8 and 16. A killed run goes on where it was: pseudo-labels, trainings and evaluations
have folders of their own under DIR. `--quick`: two steps and two images a protocol, to see that it runs; its figures
say nothing.
"""

import argparse
import statistics
import time
from pathlib import Path

import dip
from common import machine, parse

from dense_ctx.commands.arguments import progress
from dense_ctx.evaluate import evaluate
from dense_ctx.model_spec import open_model
from dense_ctx.train import TrainConfig, train
from dense_ctx.visualize import text_table

BASE = "efficientnet-lite0(layers=[1,2,3])+upsample"
LAYERS = "model.backbone.args.layers=[1,2,3]"
SMALL = ("image.short_side=192", "probe.args.memory=30000")
PROTOCOLS = {  # title: protocol, folder, settings, factor, digits; retrieval reads the encoder, the rest the decoder
    "DAVIS J&F, linear": ("davis2016-linear-grid4-v1", "davis2016", (), 100, 1),
    "DAVIS J&F, k-NN": ("davis2016-knn-grid8-v1", "davis2016", (), 100, 1),
    "CamVid mIoU, linear": ("camvid-linear-grid4-v2", "camvid", (), 100, 1),
    "CamVid mIoU, retrieval": ("camvid-retrieval-v2", "camvid", SMALL, 100, 1),
    "kitchen depth RMSE, linear (m)": ("rgbd-depth-linear-grid4-v1", "rgbd/kitchen", (), 1, 3),
    "kitchen depth RMSE, retrieval (m)": ("rgbd-retrieval-depth-v1", "rgbd/kitchen", SMALL, 1, 3),
}
QUICK = {
    "davis2016-linear-grid4-v1": ("image.short_side=96",),
    "davis2016-knn-grid8-v1": ("image.short_side=96",),
    "camvid-linear-grid4-v2": ("image.short_side=96",),
    "camvid-retrieval-v2": ("image.short_side=96", "probe.args.memory=2000"),
    "rgbd-depth-linear-grid4-v1": ("image.short_side=96",),
    "rgbd-retrieval-depth-v1": ("image.short_side=96", "probe.args.memory=2000"),
}


def trained(kind: str, seed: int, args: argparse.Namespace) -> Path:
    """The model folder of one training; `lila on dip` trains DIP first."""
    settings = [f"seed={seed}", f"out={args.out / 'runs' / slug(kind, seed)}"]
    if kind == "dip":
        preset = "dip-lite0"
        settings += [LAYERS, f"data={dip.tasks('ncut', args)}"]
    else:
        preset = "lila-lite0"
        settings += ["objective.args.features.layers=[0,1,2]", f"data={args.data / 'clips'}"]
        if kind == "lila":
            settings += [LAYERS]
        else:
            link = f"model:{trained('dip', seed, args)}"
            settings += [f"model.backbone.name={link}", "model.backbone.args={maps: backbone}"]
    if args.quick:
        settings += (
            ["steps=2", "average.start=0", "schedule.warmup=0"] if kind != "dip" else ["steps=2", "schedule.warmup=0"]
        )
    return train(TrainConfig.load(preset, settings))


def measured(spec: str, name: str, args: argparse.Namespace) -> dict[str, float]:
    """Value by title of the protocol."""
    scores = {}
    for title, (protocol, folder, settings, factor, _) in PROTOCOLS.items():
        result = evaluate(
            open_model(spec), protocol, args.data / folder, args.out / "results" / name / protocol,
            name=name, overrides=QUICK[protocol] if args.quick else settings,
            limit=2 if args.quick else None, cache="1GB", progress=progress,
        )  # fmt: skip
        scores[title] = factor * result.value
    return scores


def slug(kind: str, seed: int) -> str:
    return f"{kind.replace(' ', '-')}-{seed}"


def cell(title: str, scores: list[dict[str, float]]) -> str:
    digits = PROTOCOLS[title][-1]
    values = [score[title] for score in scores]
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.set_defaults(**dip.NUMBERS, backbone="efficientnet-lite0")  # of the pseudo-labels
    args = parse(parser, **dip.TINY)
    args.images = args.out / "images"
    rows = {"as it is": [measured(BASE, "base", args)]}
    for seed in args.seeds:
        for kind in ("dip", "lila", "lila on dip"):
            scores = measured(str(trained(kind, seed, args)), slug(kind, seed), args)
            rows.setdefault(kind, []).append(scores)
            print(kind, seed, {title: round(score, 3) for title, score in scores.items()}, flush=True)
    lines = [[name, *(cell(title, scores) for title in PROTOCOLS)] for name, scores in rows.items()]
    print("\n" + text_table([["EfficientNet-Lite0, strides 4 to 16", *PROTOCOLS], *lines]))
    print(f"\nmean ± sample standard deviation over trainings {args.seeds}; {machine()}; {time.strftime('%Y-%m-%d')}")


if __name__ == "__main__":
    main()
