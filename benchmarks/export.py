"""Exported files: size, time to export, difference from the model, time of a prediction beside the model's.

    python benchmarks/export.py [--models NAME ...] [--heads NAME ...] [--format onnx] [--rounds 5]

ViT-S/14 has random weights (its own cannot be downloaded here): size, time and difference do not depend on them. Heads
are fitted to one annotated frame of the demo's clip. Times are of one image of 240 x 320, in turns, on the CPU.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import in_turn, machine, parse, same
from dense_ctx_demo.demo import annotation, clip_path, enlarge, enlarge_labels
from dense_ctx_export import TorchExportModel, export
from dense_ctx_runtime import OnnxModel

from dense_ctx import AutoDenseModel, InContext
from dense_ctx.data.video import Video
from dense_ctx.visualize import text_table

SIDES = (240, 320)
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "efficientnet-lite0+upsample": ("dynamic", {}),
    "lila-lite0": ("dynamic", {}),
    "dinov2-s14+dpt": ("dynamic", {"weights": None}),
    "dinov2-s14+maxa": ("240x320", {"weights": None}),
}


def opened(name: str, backbone_args: dict[str, Any]) -> AutoDenseModel:
    if "+" not in name:
        return AutoDenseModel.from_pretrained(name)
    torch.manual_seed(0)
    return AutoDenseModel.from_parts(*name.split("+"), backbone_args=backbone_args)


def row(name: str, head: str, format: str, rounds: int, folder: Path) -> list[str]:
    size, backbone_args = MODELS[name]
    model = opened(name, backbone_args)
    frame = Video(clip_path()).first()
    source: Any = model
    if head != "features":
        source = InContext(model, head).fit(enlarge(frame), enlarge_labels(annotation(0)))
    path = folder / "model"
    began = time.perf_counter()
    export(source, path, format, size="dynamic" if size == "dynamic" else SIDES)
    took = time.perf_counter() - began
    artefact = OnnxModel(path) if format == "onnx" else TorchExportModel(path)
    image = np.random.default_rng(0).random((*SIDES, 3), dtype=np.float32)
    runs = {
        "model": lambda: source(image) if head == "features" else source.predict(image),
        "file": lambda: artefact(image) if head == "features" else artefact.predict(image),
    }
    in_turn(runs, 1)
    seconds = in_turn(runs, rounds)
    error = max(check["error"] for check in artefact.facts.verified)
    same(error, 1e-4, f"{name} with {head}")
    times = [f"{statistics.median(seconds[side]) * 1e3:.0f}" for side in ("model", "file")]
    return [name, head, size, f"{path.stat().st_size / 1e6:.1f}", f"{took:.0f}", f"{error:.1e}", *times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--heads", nargs="+", default=["features", "ridge", "linear", "knn", "ensemble"])
    parser.add_argument("--format", default="onnx")
    parser.add_argument("--rounds", type=int, default=5)
    args = parse(parser, models=["efficientnet-lite0+upsample"], heads=["ridge"], rounds=1)
    lines = [["model", "head", "size", "MB", "export, s", "difference", "model, ms", "file, ms"]]
    with tempfile.TemporaryDirectory() as folder:
        for name in args.models:
            for head in args.heads:
                lines.append(row(name, head, args.format, args.rounds, Path(folder)))
                print(*lines[-1], flush=True)
    print(f"\n{args.format}, {SIDES[0]} x {SIDES[1]}, {machine()}\n\n{text_table(lines)}")


if __name__ == "__main__":
    main()
