"""Where LILA's signal ends: true masks as a cue (an oracle), and which part of the loss falls on which pixels.

python benchmarks/lila_limits.py DATA --runs DIR --out DIR [--sequences NAME ...] [--seed 0] [KEY=VALUE ...]

DATA is the root of DAVIS-2016, DIR the folder of `benchmarks/adapt.py`, whose trainings are compared. The same steps
are trained once more on each sequence's own frames with its true masks as a third cue, and with them alone: what the
objective could give if its cues were perfect. J by linear probe and local k-NN; then the L1 of each cue on the query in
standard deviations, on pixels that move by themselves (flow more than 2 px of a 480p frame off an affine camera motion)
and on the others, over fixed pairs.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from adapt import PRESET, PROTOCOLS, QUICK, START, TUNED
from common import machine, parse
from dense_ctx_lila.cues.base import create_cue, normalize_cues
from dense_ctx_lila.objective import LilaObjective
from dense_ctx_lila.open_clips import open_clips
from dense_ctx_lila.sampling import FramePairs
from torch.nn import functional

from dense_ctx.commands.arguments import VerbParser, add_settings, settings_of
from dense_ctx.data import open_set
from dense_ctx.data.base import read_mask
from dense_ctx.evaluate import evaluate
from dense_ctx.model_spec import open_model
from dense_ctx.train import TrainConfig, train
from dense_ctx.visualize import text_table

MOTION, ROWS = 2.0, 480  # pixels of motion that count, of a frame of so many rows
VARIANTS = {"masks beside its cues": ("features", "flow:dis", "mask"), "masks alone": ("mask",)}


class MaskedPairs(FramePairs):
    """Pairs with the true masks as a cue, standardised as the others are, and with the pixels that move."""

    def _maps(self, small, source, places):
        size = tuple(small.shape[-2:])
        masks = [read_mask(source.clip.masks[place], source.clip.binary) > 0 for place in places]
        masks = [functional.interpolate(mask[None, None].float(), size=size, mode="area") for mask in masks]
        flow = create_cue("flow:dis")(small[:1], small[1:])
        return {
            **super()._maps(small, source, places),
            "mask": normalize_cues(*masks),
            "moving": tuple(own_motion(one[0]) for one in flow),
        }


def own_motion(flow):
    """Where a flow [2, h, w] is off the affine motion of most pixels: [1, 1, h, w] of 0 and 1."""
    field = flow.permute(1, 2, 0).numpy().reshape(-1, 2)
    height, width = flow.shape[1:]
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).reshape(-1, 2).astype(np.float32)
    cv2.setRNGSeed(0)
    matrix, _ = cv2.estimateAffine2D(grid, grid + field, method=cv2.RANSAC, ransacReprojThreshold=0.5)
    camera = grid @ matrix[:, :2].T + matrix[:, 2] - grid
    off = np.linalg.norm(field - camera, axis=1) > MOTION * height / ROWS
    return torch.from_numpy(off.reshape(1, 1, height, width).astype(np.float32))


def objective_of(config, names):
    """The configuration's objective; the masks are in the batch, not of a cue that is built."""
    own = {"features"} if "features" in names else set()
    args = dict(config.objective.args)
    cues = [name for name in names if name != "mask"] or ["flow:dis"]
    objective = LilaObjective(**{**args, "cues": cues, **({} if own else {"features": {}})})
    objective.cues.build()
    objective.cues.names = tuple(names)
    return objective


@torch.no_grad()
def errors(model, objective, data, count):
    """L1 of each cue on the query: {cue: (on moving pixels, on the others)}, and the share of moving ones."""
    sums, weight = {}, torch.zeros(2, dtype=torch.float64)
    for index in range(0, len(data), max(1, len(data) // count)):
        batch = objective.collate([data.sample(index, index)])
        images = torch.cat([batch["context"], batch["query"]])
        features, padded = model.encode(images)
        side = objective.sampling.map_size
        context, query = model.decode(features, padded, tuple(images.shape[-2:]), (side, side)).chunk(2)
        channels, targets = objective.cues(features, images, batch)
        context_cues, query_cues = targets.split()
        weights, bias = objective.regression.fit(context, context_cues.pixels(objective.regression.stride))
        predicted = torch.einsum("bdhw,bdk->bhwk", query, weights) + bias[:, None, None]
        off = (predicted - query_cues.pixels()).abs().movedim(-1, 1).double()
        moving = (batch["query/moving"] > 0.5).double()
        places = torch.stack([moving, 1 - moving])
        weight += places.sum((1, 2, 3, 4))
        for name, part in zip(channels, off.split(list(channels.values()), 1), strict=True):
            sums[name] = sums.get(name, 0) + (places * part.mean(1, keepdim=True)).sum((1, 2, 3, 4))
    return {name: (total / weight.clamp_min(1)).tolist() for name, total in sums.items()}, float(
        weight[0] / weight.sum()
    )


def main():
    parser = VerbParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="root of DAVIS-2016")
    parser.add_argument("--runs", type=Path, required=True, help="of benchmarks/adapt.py")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sequences", nargs="+", default=list(TUNED), metavar="NAME", help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pairs", type=int, default=16, metavar="N", help="of frames, for the losses (%(default)s)")
    add_settings(parser, "changes every training")
    args = parse(parser, pairs=2)
    settings = [f"seed={args.seed}", *(["steps=2", *QUICK] if args.quick else []), *settings_of(args)]
    config = TrainConfig.load(PRESET, settings)
    videos = open_set("davis2016", args.data, "val")
    if args.quick:
        clip = videos.clips[0]
        videos = replace(videos, clips=(replace(clip, frames=clip.frames[:4], masks=clip.masks[:4]),))
        args.sequences = [clip.name]
    scores, losses, shares = {}, {}, []
    for name in args.sequences:
        only = replace(videos, clips=tuple(clip for clip in videos.clips if clip.name == name))
        folder = args.runs / "runs" / f"{name}-{args.seed}" / "model"
        models = {"start": (START, args.runs / "results/start-0")}
        if folder.exists():
            models["adapted"] = folder, args.runs / f"results/adapted-{args.seed}"
        else:
            print(f"{name}: no training in {folder}, which is left out", flush=True)
        for variant, cues in VARIANTS.items():
            slug = variant.replace(" ", "-")
            objective, out = objective_of(config, cues), args.out / "runs" / f"{slug}-{name}"
            data = MaskedPairs(open_clips(only), objective.sampling, objective.cues.light)
            began = time.process_time()
            trained = train(replace(config, model=START, out=str(out)), objective=objective, dataset=data)
            print(f"{out.name}: {time.process_time() - began:.0f} CPU seconds", flush=True)
            models[variant] = trained, args.out / "results" / slug
        judge = objective_of(config, VARIANTS["masks beside its cues"])
        data = MaskedPairs(open_clips(only), judge.sampling, judge.cues.light)
        for method, (spec, results) in models.items():
            model = open_model(str(spec))
            for probe, protocol in PROTOCOLS.items():
                out = results / name / protocol
                value = evaluate(model, protocol, only, out, name=out.parents[1].name).scores["J-Mean"]
                scores.setdefault(method, {}).setdefault(probe, []).append(100 * value)
            found, share = errors(model, judge, data, args.pairs)
            for cue, (moving, others) in found.items():
                losses.setdefault(method, {}).setdefault(f"{cue}, moving", []).append(moving)
                losses[method].setdefault(f"{cue}, others", []).append(others)
            print(name, method, {p: round(v[-1], 1) for p, v in scores[method].items()}, found, flush=True)
        shares.append(f"{name} {100 * share:.0f} %")
    for title, table, form in (("J", scores, ".1f"), ("L1 on the query", losses, ".3f")):
        columns = list(next(iter(table.values())))
        rows = [[method, *(f"{np.mean(cells[c]):{form}}" for c in columns)] for method, cells in table.items()]
        print(f"\n{title}, mean of {', '.join(args.sequences)}\n\n" + text_table([["", *columns], *rows]))
    print(f"\npixels that move by themselves: {', '.join(shares)}\n{machine()}; {time.strftime('%Y-%m-%d')}")


if __name__ == "__main__":
    main()
