"""How often an int8 file says that an image is unlike its calibration: on images like it, and on unlike ones.

    python benchmarks/export_calibration.py DATA [--model lila-lite0 --every 30]

DATA holds davis2016. The file is calibrated with the first frames of the first four sequences. Like it: later frames of
these, and frames of the other sequences, none of them calibrated with. Unlike: the pictures in the package scikit-image
(photographs, textures, microscopy, drawings), noise, a black and a striped image. The limits of `OutsideCalibration`
were not chosen with these.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
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

SIDE = 480  # of the shorter side, as DAVIS has it


def photograph(path: Path) -> np.ndarray[Any, Any]:
    image = Image.open(path).convert("RGB")
    scale = SIDE / min(image.size)
    return np.asarray(image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC))


def drawn() -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    stripes = np.zeros((SIDE, SIDE, 3), np.uint8)
    stripes[:, ::2] = 255
    return {
        "black": np.zeros((SIDE, SIDE, 3), np.uint8), "stripes": stripes,
        "noise": rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8),
        "coarse noise": np.kron(rng.integers(0, 256, (60, 60, 3)), np.ones((8, 8, 1))).astype(np.uint8),
    }  # fmt: skip


def outside(model: OnnxModel, image: Any) -> bool:
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        model(image)
    return any(item.category is OutsideCalibration for item in heard)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--model", default="lila-lite0")
    parser.add_argument("--every", type=int, default=30, help="frames between those that are tried (%(default)s)")
    parser.add_argument("--most", type=int, default=1000, help="pictures of scikit-image (%(default)s)")
    args = parse(parser, every=4, most=1)
    root = args.data / "davis2016" / "JPEGImages" / "480p"
    clips = [sorted(folder.glob("*.[jp][pn]g"))[:: args.every] for folder in sorted(root.iterdir()) if folder.is_dir()]
    calibration = [clip[0] for clip in clips[:4]]
    calibration += [clip[-1] for clip in clips][: 4 - len(calibration)]
    pictures = sorted(Path(str(files("skimage") / "data")).glob("*.[pj][np]g"))[: args.most]
    groups: dict[str, dict[str, Any]] = {
        "later frames of calibrated clips": {
            f"{p.parent.name}/{p.stem}": p for clip in clips[:4] for p in clip[1:] if p not in calibration
        },
        "other clips": {f"{p.parent.name}/{p.stem}": p for clip in clips[4:] for p in clip},
        "scikit-image": {p.stem: photograph(p) for p in pictures},
        "drawn": drawn(),
    }
    lines = [["images", "number", "warned of"]]
    with tempfile.TemporaryDirectory() as place:
        whole = AutoDenseModel.from_pretrained(args.model).export(Path(place) / "float32.onnx")
        model = OnnxModel(quantise(whole, calibration, Path(place) / "int8.onnx"))
        for group, images in groups.items():
            names = [name for name, image in images.items() if outside(model, image)]
            lines.append([group, str(len(images)), str(len(names))])
            print(group, len(images), "warned of:", ", ".join(names), flush=True)
    print(f"\n{args.model}, {machine()}\n\n{text_table(lines)}")


if __name__ == "__main__":
    main()
