"""Peak memory of large images, each case in a process of its own.

python benchmarks/memory.py [--height 3000 --width 4000] [--budget 2GB] [--quick]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from common import in_process, machine, parse, peak_mb, peak_mb_since, reset_peak, same


def _photo(height: int, width: int):  # type: ignore[no-untyped-def]
    import numpy as np
    from PIL import Image
    from skimage import data

    picture = Image.fromarray(data.astronaut()).resize((width, height), Image.Resampling.BICUBIC)
    labels = np.hypot(*(np.mgrid[:height, :width] - np.array([[[height * 0.3]], [[width * 0.45]]]))) < height / 4
    return np.asarray(picture), labels.astype(np.uint8)


def write(height: int, width: int, budget: str) -> tuple[float, float, str]:
    from dense_ctx_predict.feature_files import write_features

    from dense_ctx import AutoDenseModel

    model = AutoDenseModel.from_parts("efficientnet-lite0", "upsample")
    image, _ = _photo(height, width)
    before, start = peak_mb(), time.time()
    with tempfile.TemporaryDirectory() as folder:
        path = write_features(model, image, Path(folder) / "features.npy", max_memory=f"{budget} approximate")
        size = path.stat().st_size / 1e9
    return peak_mb(), time.time() - start, f"{size:.2f} GB written; {before:.0f} MB before"


def segment(height: int, width: int, budget: str) -> tuple[float, float, str]:
    import torch
    from dense_ctx_metrics.segmentation import confusion_matrix, iou

    from dense_ctx import AutoDenseModel, InContext

    model = AutoDenseModel.from_parts("efficientnet-lite0", "upsample")
    image, labels = _photo(height, width)
    before, start = peak_mb(), time.time()
    context = InContext(model).fit(image, labels, max_memory=f"{budget} approximate")
    predicted = context.predict(image, max_memory=f"{budget} approximate")
    score = iou(confusion_matrix(predicted, torch.from_numpy(labels).long(), 2)).mean()
    return peak_mb(), time.time() - start, f"mean IoU on the example itself {score:.3f}; {before:.0f} MB before"


def forward(height: int, width: int, budget: str, backbone: str, decoder: str) -> tuple[float, float, str]:
    import torch

    from dense_ctx import AutoDenseModel
    from dense_ctx.tiling import plan

    args = {} if backbone == "efficientnet-lite0" else {"weights": None}
    model = AutoDenseModel.from_parts(backbone, decoder, backbone_args=args)
    image = torch.rand(1, 3, height, width)
    with torch.inference_mode():
        model(torch.rand(1, 3, 64, 64))
        before, start = reset_peak(), time.time()
        windows = len(plan(model, (height, width), budget, model.dim))
        model(image, max_memory=f"{budget} approximate")
    return peak_mb_since() - before, time.time() - start, f"{windows} windows; budget {budget}; beside {before:.0f} MB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--height", type=int, default=3000)
    parser.add_argument("--width", type=int, default=4000)
    parser.add_argument("--budget", default="2GB")
    parser.add_argument("--forward", type=float, default=1.0, help="sides of the images of the first cases, as a share")
    args = parse(parser, height=300, width=400, budget="500MB", forward=0.7)
    print(machine())
    for height, width, gigabytes, backbone, decoder in (
        (900, 1200, 3, "efficientnet-lite0", "upsample"), (640, 900, 1.2, "dinov2-s14", "dpt"),
    ):  # fmt: skip
        height, width = round(height * args.forward), round(width * args.forward)
        budget = f"{gigabytes * args.forward**2}GB"
        peak, seconds, note = in_process(forward, height, width, budget, backbone, decoder)
        print(f"forward {height}x{width} {backbone}+{decoder}: adds {peak:.0f} MB, {seconds:.1f} s, {note}", flush=True)
        same(peak / 1e3 / (gigabytes * args.forward**2), 1.1, "share of the budget that is used")
    for name, case in (("segment", segment), ("write features", write)):
        peak, seconds, note = in_process(case, args.height, args.width, args.budget)
        print(f"{name} {args.height}x{args.width}: peak {peak:.0f} MB, {seconds:.1f} s, {note}", flush=True)


if __name__ == "__main__":
    main()
