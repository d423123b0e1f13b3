"""What a session's short cuts cost: its answers beside those of `InContext` and of `track`, on DAVIS-2016.

    python benchmarks/session_quality.py DATA [--sequences camel dog --frames 25 --every 8]

DATA holds davis2016/. The first frame is annotated. Intersection over union of the object, mean over frames: every
frame propagated by `Session.propagate` and by `track` (DINO's recipe: 7 previous frames, 12 cells, all channels); every
eighth predicted as an image of its own by `Session.labels` and by `InContext` at full size.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import machine, parse
from dense_ctx_predict import track
from dense_ctx_session import Session
from PIL import Image

from dense_ctx import InContext


def overlap(labels: Any, truth: Any) -> float:
    """IoU of class 1; 1 where neither has it."""
    one, other = np.asarray(labels) == 1, truth == 1
    union = int((one | other).sum())
    return float((one & other).sum() / union) if union else 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="lila-lite0")
    parser.add_argument("--sequences", nargs="+", help="default all")
    parser.add_argument("--frames", type=int, default=25, help="of each sequence, beside the first")
    parser.add_argument("--every", type=int, default=8, help="so many frames one is predicted by itself")
    args = parse(parser, model="efficientnet-lite0+upsample", frames=2, every=1)
    root = args.data / "davis2016"
    names = args.sequences or sorted(path.name for path in (root / "JPEGImages" / "480p").iterdir())
    print(machine())
    print(f"{'IoU':20}{'propagate':>12}{'track':>12}{'labels':>12}{'InContext':>12}")
    rows = []
    for name in names:
        frames = sorted((root / "JPEGImages" / "480p" / name).iterdir())[: args.frames + 1]
        masks = [root / "Annotations" / "480p" / name / f"{path.stem}.png" for path in frames]
        truth = [(np.asarray(Image.open(path)) > 0).astype(np.uint8) for path in masks]
        first, single = torch.from_numpy(truth[0]).long(), range(args.every, len(frames), args.every)
        with Session(args.model, frames, classes=["rest", "object"]) as images:
            images.mask_label(0, truth[0])
            context = InContext(images.model, images.method.name).fit(frames[0], first)
            ours = [overlap(images.labels(i), truth[i]) for i in single]
            theirs = [overlap(context.predict(frames[i]), truth[i]) for i in single]
            recipe = [overlap(labels, truth[i]) for i, labels in enumerate(track(images.model, frames, first)) if i]
            model = images.model
        with Session(model, frames[0].parent, frames=True, classes=["rest", "object"]) as clip:
            clip.mask_label(0, truth[0])
            carried = [overlap(clip.labels(i), truth[i]) for i in clip.propagate(stop=len(frames))]
        rows.append([float(np.mean(values)) for values in (carried, recipe, ours, theirs)])
        print(f"{name:20}" + "".join(f"{value:12.3f}" for value in rows[-1]), flush=True)
    print(f"{'mean':20}" + "".join(f"{value:12.3f}" for value in np.mean(rows, 0)))


if __name__ == "__main__":
    main()
