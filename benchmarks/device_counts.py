"""What a step asks of a GPU's host, counted without a GPU: operations launched, waits for the device, copies to it.

    python benchmarks/device_counts.py            # a C++ compiler; minutes
    python benchmarks/device_counts.py --where 5  # and where in the code
    python benchmarks/device_counts.py --roofline # FLOP and bytes of LILA's step, and what they take on an H100

On a pretended CUDA device (tests/pretend_gpu) all values are real and every operation is seen: a launch costs the host
some microseconds, and a wait lets the device run dry. Counts are of the second step, image or frame of its kind. They
depend on the network's depth, the objective's settings and the data, not on the machine.
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import roofline
import torch
from common import machine, parse
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from dense_ctx_predict.tracking import track
from maxa_scenes import Boxes
from pretend_gpu.device import Pretend, compiler, pretend

from dense_ctx import AutoDenseModel, registry
from dense_ctx.train import TrainConfig, train

KINDS = ("launches", "waits", "uploads")


class Step:
    """The counts between the ends of the first and the second step, image or frame."""

    def __init__(self, gpu: Pretend) -> None:
        self.gpu, self.ends, self.counts = gpu, 0, {kind: Counter[Any]() for kind in KINDS}
        self.shared = 1  # images that share what was counted

    def end(self) -> None:
        self.ends += 1
        if self.ends == 2:
            self.counts = {kind: getattr(self.gpu, kind).copy() for kind in KINDS}
        self.gpu.clear()


def backbone(args: argparse.Namespace) -> dict[str, Any]:
    small = {"depth": 4, "embed_dim": 48, "num_heads": 2} if args.quick else {}
    return {"name": args.backbone, "args": {"weights": None, **small}}


def trained(args: argparse.Namespace, step: Step, objective: Any, dataset: Any, decoder: str, out: Path) -> None:
    """Three steps of the training loop."""
    own = objective.after_step

    def after_step(model: Any, number: int) -> None:
        own(model, number)
        step.end()

    objective.after_step = after_step
    settings = {"out": str(out), "steps": 3, "batch_size": args.batch, "device": "cuda:0", "mixed_precision": "bf16",
                "model": {"backbone": backbone(args), "decoder": decoder}}  # fmt: skip
    train(TrainConfig.from_dict(settings), objective=objective, dataset=dataset)


def pictures(root: Path, count: int, size: tuple[int, int]) -> Path:
    draw = np.random.default_rng(0)
    root.mkdir(parents=True)
    for index in range(count):
        coarse = draw.integers(0, 255, (-(-size[0] // 8), -(-size[1] // 8), 3), np.uint8)
        Image.fromarray(coarse.repeat(8, 0).repeat(8, 1)[: size[0], : size[1]]).save(root / f"{index:05d}.png")
    return root


def lila(args: argparse.Namespace, step: Step, work: Path) -> None:
    side = args.side
    pictures(work / "clips/one", 6, (side + 32, side + 64))
    sampling = {"size": side, "frame_side": side + 32, "cue_side": side + 32, "map_size": side // 4}
    objective = registry().create("objective", "lila", cues=["features", "flow:dis"], sampling=sampling, centre=0)
    trained(args, step, objective, objective.dataset(work / "clips"), "dpt(dim=32)", work / "run")


def dip(args: argparse.Namespace, step: Step, work: Path) -> None:
    images, labels = pictures(work / "images", 12, (args.side, args.side)), work / "labels"
    labels.mkdir()
    for index in range(12):
        ids = np.random.default_rng(index).integers(0, 16, (args.side // 16, args.side // 16)).astype(np.uint8)
        Image.fromarray(ids.repeat(16, 0).repeat(16, 1)).save(labels / f"{index:05d}.png")
    rows = [f"{i:05d}.png {(i + 1) % 12:05d}.png" for i in range(12)]
    (work / "pairs.txt").write_text("\n".join(rows) + "\n")
    data = {"images": str(images), "labels": str(labels), "pairs": str(work / "pairs.txt"), "classes": 16}
    objective = registry().create("objective", "dip", size=args.side)
    trained(args, step, objective, objective.dataset(data), "upsample", work / "run")


def maxa(task: str, args: argparse.Namespace, step: Step, work: Path) -> None:
    side, kind = [args.side, args.side], {"depth": "depth", "semantic": "segmentation"}.get(task, "instances")
    objective = registry().create("objective", f"maxa-{task}", size=side, image_size=side)
    decoder = f"maxa(dim={ {'semantic': 3, 'instances': 8}.get(task, 1) }, size={side})"
    trained(args, step, objective, objective.dataset(Boxes(kind, 12)), decoder, work / "run")


def features(args: argparse.Namespace, step: Step, work: Path) -> None:
    model = AutoDenseModel.from_parts(backbone(args)["name"], "dpt", backbone_args=backbone(args)["args"])
    model = model.to("cuda:0").eval()
    images = torch.rand(args.batch, 3, args.side, args.side)
    with torch.inference_mode():
        for _ in range(2):
            model(images)
            step.end()


def tracking(args: argparse.Namespace, step: Step, work: Path) -> None:
    height, width = args.frame
    frames = [Image.open(path) for path in sorted(pictures(work / "frames", 4, (height, width)).iterdir())]
    size = frames[0].size[::-1]
    mask = torch.zeros(size, dtype=torch.int64)
    mask[: size[0] // 2, : size[1] // 2] = 1
    model = AutoDenseModel.from_parts(backbone(args)["name"], "upsample", backbone_args=backbone(args)["args"])
    model = model.to("cuda:0").eval()
    for number, _ in enumerate(track(model, frames, mask)):
        if number:
            step.end()


def ncut(args: argparse.Namespace, step: Step, work: Path) -> None:
    """Batches of eight images of as many patches as DIP's: 32 x 32, of some ten things each."""
    from dense_ctx_dip.tasks import BATCH

    segmenter = registry().create("segmenter", "ncut")
    draw = torch.Generator().manual_seed(0)
    images = [torch.rand(3, 448, 448, generator=draw)] * BATCH
    for _ in range(2):
        features = []
        for _ in images:
            things = torch.randn(4, 64, generator=draw)[torch.randint(0, 4, (12,), generator=draw)]
            things = things + torch.randn(12, 64, generator=draw)
            coarse = torch.randint(0, 12, (1, 1, 8, 8), generator=draw).float()
            where = torch.nn.functional.interpolate(coarse, (32, 32), mode="nearest")[0, 0].long()
            features.append((things[where] + 0.7 * torch.randn(32, 32, 64, generator=draw)).movedim(-1, 0).to("cuda:0"))
        segmenter.batch(images, features, [(448, 448)] * BATCH)
        step.end()
    step.shared = BATCH


CASES: dict[str, Any] = {
    "ncut, image": ncut,
    "LILA, step": lila,
    "DIP, step": dip,
    **{f"MAXA {task}, step": functools.partial(maxa, task) for task in ("depth", "semantic", "instances")},
    "model(images)": features,
    "track(), frame": tracking,
}


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="dinov2-b14")
    parser.add_argument("--side", type=int, default=224, help="of the images")
    parser.add_argument("--batch", type=int, help="default 2; of the roofline 32")
    parser.add_argument("--frame", nargs=2, type=int, default=[480, 854], metavar=("H", "W"), help="of a clip")
    parser.add_argument("--where", type=int, default=0, metavar="N", help="the N places with most of each")
    parser.add_argument("--roofline", action="store_true", help="of a step of LILA, from shapes alone")
    parser.add_argument("--dim", type=int, default=192, help="of the features there")
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES), metavar="CASE", help="these")
    args = parse(parser, words, side=56)
    args.batch = args.batch or (32 if args.roofline else 2)
    return args


def main() -> None:
    args = arguments()
    if compiler() is None:
        raise SystemExit("There is no C++ compiler (c++, g++ or clang++) for the pretended device")
    if args.roofline:
        with pretend():
            count = roofline.lila(args.backbone, args.dim, args.batch, args.side)
        print(f"LILA, {args.backbone}, {args.side} px, batch {args.batch}, bf16, H100; nothing was run on a GPU\n")
        return roofline.show(count, args.where)
    of = f"{args.backbone}{' of 4 blocks' if args.quick else ''}"
    print(f"{machine()}; {of}, {args.side} px, batch {args.batch}, bf16; frames of {args.frame[0]} x {args.frame[1]}")
    print(f"\n| {'':24} | {' | '.join(f'{kind:>8}' for kind in KINDS)} |\n|---|---|---|---|")
    for name in args.only:
        with tempfile.TemporaryDirectory() as folder, pretend() as gpu:
            step = Step(gpu)
            CASES[name](args, step, Path(folder))
        totals = {kind: round(sum(step.counts[kind].values()) / step.shared) for kind in KINDS}
        if not totals["launches"]:
            raise SystemExit(f"{name}: nothing was launched; the counts are of no step")
        print(f"| {name:24} | {' | '.join(f'{total:>8}' for total in totals.values())} |", flush=True)
        for kind in KINDS if args.where else ():
            for (place, operation), count in step.counts[kind].most_common(args.where):
                print(f"    {kind} {count:6d}  {place}  {operation}")


if __name__ == "__main__":
    main()
