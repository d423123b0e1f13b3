"""int8 beside float32 and bfloat16: size, time, and J and F of DAVIS sequences from their first frame's mask.

    python benchmarks/export_int8.py DATA [--every 16 --model lila-lite0]

DATA holds davis2016. Features of each kind are read by a ridge regression fitted to the first frame's; every so many
frames are scored.
Calibration images are the first frames of half of the sequences; scores are printed for all.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from common import machine, parse
from dense_ctx_export.quantisation import quantise
from dense_ctx_metrics.vos import boundary_f, jaccard
from dense_ctx_probes.ridge import RidgeProbe
from dense_ctx_runtime import OnnxModel

from dense_ctx import AutoDenseModel, DenseFeatures
from dense_ctx.images import load, load_mask
from dense_ctx.visualize import text_table

Read = Callable[[Path], torch.Tensor]


def scores(read: Read, frames: list[Path], masks: list[Path]) -> tuple[list[float], list[float], list[float]]:
    """J and F of the frames after the first, and seconds of each frame's features."""
    probe, js, fs, seconds = RidgeProbe(), [], [], []
    for index, (frame, mask) in enumerate(zip(frames, masks, strict=True)):
        truth = (load_mask(mask) > 0).long()
        began = time.perf_counter()
        pixels = read(frame)
        seconds.append(time.perf_counter() - began)
        features = DenseFeatures(pixels, pixels)
        if index == 0:
            probe.partial_fit(features, truth[None])
            continue
        predicted = probe.predict(features)[0].argmax(0).bool().numpy()[None]
        js.append(float(jaccard(truth.bool().numpy()[None], predicted)[0]))
        fs.append(float(boundary_f(truth.bool().numpy()[None], predicted)[0]))
    return js, fs, seconds


def of_torch(model: torch.nn.Module) -> Read:
    def read(path: Path) -> torch.Tensor:
        with torch.inference_mode():
            return model(load(path)).pixels.float()

    return read


def of_file(path: Path) -> Read:
    model = OnnxModel(path)
    return lambda image: torch.from_numpy(np.ascontiguousarray(model(image).pixels))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--model", default="lila-lite0")
    parser.add_argument("--every", type=int, default=16, help="frames between those that are scored (%(default)s)")
    parser.add_argument("--most", type=int, default=1000, help="sequences (%(default)s)")
    args = parse(parser, every=1, most=2)
    root = args.data / "davis2016"
    folders = sorted(path for path in (root / "JPEGImages" / "480p").iterdir() if path.is_dir())[: args.most]
    clips = [sorted(folder.glob("*.[jp][pn]g"))[:: args.every] for folder in folders]
    model = AutoDenseModel.from_pretrained(args.model)
    with tempfile.TemporaryDirectory() as place:
        whole, small = Path(place) / "float32.onnx", Path(place) / "int8.onnx"
        model.export(whole)
        calibration = [clip[0] for clip in clips[: max(4, len(clips) // 2)]]
        calibration += [clip[-1] for clip in clips][: max(0, 4 - len(calibration))]
        quantise(whole, calibration, small)
        wide = AutoDenseModel.from_pretrained(args.model, dtype=torch.bfloat16)
        kinds = {
            "float32, model": of_torch(model), "float32, file": of_file(whole), "int8, file": of_file(small),
            "bfloat16, model": of_torch(wide),
        }  # fmt: skip
        size = sum(value.numel() * value.element_size() for value in model.state_dict().values())
        sizes = [size, whole.stat().st_size, small.stat().st_size, size // 2]
        lines = [["", "MB", "ms a frame", "J", "F", "J&F"]]
        for (name, read), volume in zip(kinds.items(), sizes, strict=True):
            js, fs, seconds = [], [], []
            for clip in clips:
                masks = [root / "Annotations" / "480p" / path.parent.name / f"{path.stem}.png" for path in clip]
                parts = scores(read, clip, masks)
                js.append(statistics.mean(parts[0]))
                fs.append(statistics.mean(parts[1]))
                seconds += parts[2]
            j, f = 100 * statistics.mean(js), 100 * statistics.mean(fs)
            ms = statistics.median(seconds) * 1e3
            lines.append([name, f"{volume / 1e6:.1f}", f"{ms:.0f}", f"{j:.1f}", f"{f:.1f}", f"{(j + f) / 2:.1f}"])
            print(*lines[-1], flush=True)
    print(f"\n{args.model}, {len(clips)} sequences, every {args.every} frames, {machine()}\n\n{text_table(lines)}")


if __name__ == "__main__":
    main()
