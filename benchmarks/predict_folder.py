"""Memory of `dense-ctx predict` while it goes through a folder of images of 640 x 480, as a user runs it.

python benchmarks/predict_folder.py [--images 1000] [--model lila-lite0] [--method ensemble] [--quick]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from common import machine, parse, same

SHARES = (0.05, 0.5, 1.0)  # of the images: when memory is printed
GROWTH = 1.05  # at most, of the peak from the half to the whole; what it grows by before that has no known reason


def write_photos(folder: Path, count: int, height: int, width: int) -> tuple[Path, Path]:
    """`count` different images cut out of scikit-image's photos; the first of them again, and its mask."""
    import numpy as np
    from PIL import Image
    from skimage import data

    draw = np.random.default_rng(0)
    photos = [Image.fromarray(picture) for picture in (data.astronaut(), data.coffee(), data.chelsea(), data.rocket())]
    (folder / "photos").mkdir()
    for index in range(count):
        photo = photos[index % len(photos)]
        part = draw.uniform(0.5, 1.0) * np.array(photo.size)
        left, top = draw.uniform(0, 1, 2) * (np.array(photo.size) - part)
        box = (left, top, left + part[0], top + part[1])
        image = photo.resize((width, height), Image.Resampling.BICUBIC, box=box)
        image.save(folder / "photos" / f"{index:04d}.jpg", quality=90)
    example, mask = folder / "example.jpg", folder / "mask.png"
    photos[0].resize((width, height)).save(example, quality=95)
    y, x = np.mgrid[:height, :width]
    inside = np.hypot(y - height * 0.3, x - width * 0.45) < height / 4  # the head
    Image.fromarray(inside.astype(np.uint8)).save(mask)
    return example, mask


def run(folder: Path, count: int, model: str, method: str) -> list[tuple[int, float, float, float]]:
    """Predict; (images, peak so far in MB, memory at that moment in MB, seconds since the start) at each share."""
    example, mask = folder / "example.jpg", folder / "mask.png"
    command = [sys.executable, "-m", "dense_ctx.cli", "predict", "--support", f"{example}:{mask}", "--query"]
    command += [str(folder / "photos"), "--out", str(folder / "out"), "--model", model, "--method", method]
    marks = [max(1, round(count * share)) for share in SHARES]
    record, rows, peak, began = folder / "out" / "predictions.jsonl", [], 0.0, time.monotonic()
    with (folder / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        watched = psutil.Process(process.pid)
        while True:
            try:
                now = watched.memory_info().rss / 1e6
            except psutil.NoSuchProcess:
                now = 0.0
            peak = max(peak, now)
            lines = record.read_bytes().count(b"\n") if record.exists() else 0
            while marks and lines >= marks[0]:
                rows.append((marks.pop(0), peak, now, time.monotonic() - began))
                print("{} images: peak {:.0f} MB, {:.0f} MB now, {:.0f} s".format(*rows[-1]), flush=True)
            if process.poll() is not None:
                break
            time.sleep(0.02)
    if process.returncode or marks:
        raise SystemExit(f"The command ended with {process.returncode}:\n{(folder / 'log').read_text()[-2000:]}")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--model", default="lila-lite0")
    parser.add_argument("--method", default="ensemble")
    args = parse(parser, images=20, height=96, width=128, method="ridge")
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        write_photos(Path(folder), args.images, args.height, args.width)
        rows = run(Path(folder), args.images, args.model, args.method)
    (half, before, _, _), (_, last, _, seconds) = rows[-2:]
    print(f"{args.images} images of {args.width} x {args.height}: {seconds / args.images:.2f} s an image")
    same(last / before, GROWTH, f"peak after {args.images} images to that after {half}")


if __name__ == "__main__":
    main()
