"""How often an int8 file says that an image is unlike its calibration, and how far it is from float32 there.

    python benchmarks/export_calibration.py DATA [--model lila-lite0 --every 30 --side 480]

DATA holds davis2016, and perhaps camvid. The file is calibrated with the first frames of the first four sequences. Like
it: later frames of these, and frames of the other sequences, none of them calibrated with. Unlike: CamVid's validation
images; the calibrated clips' last frames inverted, dark, blurred and of four times the contrast; the pictures in the
package scikit-image (photographs, textures, microscopy, drawings); noise, a black and a striped image. The error is the
norm of the difference from the float32 file's features over that of their deviations from their mean. The limit of
`OutsideCalibration` was not chosen with these.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import warnings
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from common import machine, parse
from dense_ctx_export.quantisation import quantise
from dense_ctx_runtime import OnnxModel
from dense_ctx_runtime.graph_model import OutsideCalibration
from PIL import Image

from dense_ctx import AutoDenseModel
from dense_ctx.visualize import text_table

Picture = np.ndarray[Any, Any]


def photograph(path: Path, side: int) -> Picture:
    image = Image.open(path).convert("RGB")
    scale = side / min(image.size)
    return np.asarray(image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC))


def changed(image: Picture) -> dict[str, Picture]:
    size = (image.shape[1], image.shape[0])
    small = Image.fromarray(image).resize((size[0] // 12, size[1] // 12))
    return {
        "inverted": 255 - image, "dark": (image * 0.15).astype(np.uint8), "blurred": np.asarray(small.resize(size)),
        "contrast": ((image.astype(float) - 128) * 4 + 128).clip(0, 255).astype(np.uint8),
    }  # fmt: skip


def drawn(side: int) -> dict[str, Picture]:
    rng = np.random.default_rng(0)
    stripes = np.zeros((side, side, 3), np.uint8)
    stripes[:, ::2] = 255
    return {
        "black": np.zeros((side, side, 3), np.uint8), "stripes": stripes,
        "noise": rng.integers(0, 256, (side, side, 3), dtype=np.uint8),
        "coarse noise": np.kron(rng.integers(0, 256, (side // 8, side // 8, 3)), np.ones((8, 8, 1))).astype(np.uint8),
    }  # fmt: skip


def measure(whole: OnnxModel, small: OnnxModel, image: Picture) -> tuple[bool, float]:
    """Whether the int8 file warns, and the error of its features."""
    truth = whole(image).pixels[0]
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        error = small(image).pixels[0] - truth
    spread = np.linalg.norm(truth - truth.mean((1, 2), keepdims=True))
    return any(item.category is OutsideCalibration for item in heard), float(np.linalg.norm(error) / spread)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--model", default="lila-lite0")
    parser.add_argument("--every", type=int, default=30, help="frames between those that are tried (%(default)s)")
    parser.add_argument("--side", type=int, default=480, help="of the shorter side of images (%(default)s)")
    parser.add_argument("--most", type=int, default=1000, help="pictures of scikit-image and of CamVid (%(default)s)")
    args = parse(parser, every=4, most=1, side=64)
    root = args.data / "davis2016" / "JPEGImages" / "480p"
    clips = [sorted(folder.glob("*.[jp][pn]g"))[:: args.every] for folder in sorted(root.iterdir()) if folder.is_dir()]
    paths = [clip[0] for clip in clips[:4]]
    paths += [clip[-1] for clip in clips][: 4 - len(paths)]
    calibration = [photograph(path, args.side) for path in paths]
    pictures = sorted(Path(str(files("skimage") / "data")).glob("*.[pj][np]g"))[: args.most]
    streets = sorted((args.data / "camvid" / "val" / "images").glob("*.[jp][pn]g"))[:: args.every // 3 or 1][
        : args.most
    ]
    groups: dict[str, Iterator[Picture]] = {
        "later frames of calibrated clips": (
            photograph(p, args.side) for clip in clips[:4] for p in clip[1:] if p not in paths
        ),
        "other clips": (photograph(p, args.side) for clip in clips[4:] for p in clip),
        "CamVid": (photograph(p, args.side) for p in streets),
        "scikit-image": (photograph(p, args.side) for p in pictures),
        "drawn": iter(drawn(args.side).values()),
    }
    variants = [changed(photograph(clip[-1], args.side)) for clip in clips[:4]]
    groups |= {kind: iter([variant[kind] for variant in variants]) for kind in variants[0]}
    lines = [["images", "number", "warned of", "error, median", "least", "largest"]]
    every: list[tuple[bool, float]] = []
    with tempfile.TemporaryDirectory() as place:
        path = AutoDenseModel.from_pretrained(args.model).export(Path(place) / "float32.onnx")
        whole, small = OnnxModel(path), OnnxModel(quantise(path, calibration, Path(place) / "int8.onnx"))
        for group, images in groups.items():
            results = [measure(whole, small, image) for image in images]
            every += results
            lines.append(line(group, results))
            print(*lines[-1], flush=True)
    lines += [line(f"all that {name}", [r for r in every if r[0] == yes])
              for name, yes in (("it warns of", True), ("it does not", False))]  # fmt: skip
    print(f"\n{args.model}, short side {args.side}, {machine()}\n\n{text_table(lines)}")


def line(name: str, results: list[tuple[bool, float]]) -> list[str]:
    errors = [error for _, error in results] or [float("nan")]
    numbers = [f"{value:.2f}" for value in (statistics.median(errors), min(errors), max(errors))]
    return [name, str(len(results)), str(sum(warned for warned, _ in results)), *numbers]


if __name__ == "__main__":
    main()
