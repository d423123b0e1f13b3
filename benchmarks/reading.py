"""Features and masks of photographs, and a tracked clip: files read one after the other, and by a thread that is ahead.

    python benchmarks/reading.py --images 48 --side 640
    python benchmarks/reading.py --cpu --only predict track

Seconds of both in turns. On a CPU the network uses all cores anyway, so there should be no difference; an accelerator
idles while a file is decoded.
"""

import argparse
import itertools
import tempfile
from pathlib import Path

import numpy as np
import torch
from common import in_turn, machine, parse, ratio, same
from dense_ctx_predict import Predictor, track
from dense_ctx_predict.batches import decoded
from dense_ctx_predict.outputs import Writer
from dense_ctx_predict.queries import expand
from dense_ctx_predict.run import run
from PIL import Image

from dense_ctx import AutoDenseModel, InContext
from dense_ctx.data.video import Video, write_video
from dense_ctx.device import pick_device
from dense_ctx.images import load, load_mask
from dense_ctx.progress import ahead


def features(folder, model):
    """Sums of features of photographs, by each way of reading."""
    paths = sorted((folder / "photos").iterdir())
    readers = {"one after the other": lambda: map(load, paths), "ahead": lambda: ahead(load, paths)}
    return {
        name: lambda read=read: np.array([float(model(image, size=(28, 28)).pixels.sum()) for image in read()])
        for name, read in readers.items()
    }


def predict(folder, model):
    """Masks of photographs, written and read again: query by query, and by the command's loop."""
    photo = load(folder / "photos/000.jpg")
    mask = torch.zeros(photo.shape[1:], dtype=torch.int64)
    mask[:, : mask.shape[1] // 2] = 1
    predictor, number = Predictor(InContext(model, "ridge").fit(photo, mask)), itertools.count()
    queries = expand([folder / "photos"])

    def masks(work):
        writer = Writer(predictor, folder / f"out{next(number)}")
        work(writer)
        return np.stack([load_mask(writer.out / writer.files(query)[0]).numpy() for query in queries])

    return {
        "one after the other": lambda: masks(lambda writer: [writer.write(query) for query in queries]),
        "ahead": lambda: masks(lambda writer: run(queries, writer)),
    }


def tracked(folder, model):
    """Labels of the frames of a clip."""
    video = Video(folder / "clip.mp4")
    mask = torch.zeros(video.size, dtype=torch.int64)
    mask[: mask.shape[0] // 2] = 1
    readers = {"one after the other": iter, "ahead": decoded}
    return {
        name: lambda read=read: np.stack([labels.numpy() for labels in track(model, read(video), mask)])
        for name, read in readers.items()
    }


CASES = {"features": features, "predict": predict, "track": tracked}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="efficientnet-lite0")
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--side", type=int, default=640, help="of the photographs and frames")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES), metavar="CASE", help="these")
    parser.add_argument("--cpu", action="store_true", help="seconds of the processor, where others use it too")
    args = parse(parser, images=6, side=96, rounds=3)
    model = AutoDenseModel.from_parts(args.backbone, backbone_args={"weights": None}).eval().to(pick_device())
    print(f"{machine()}; {args.backbone} on {model.device}, {args.images} photographs and frames of {args.side} px")
    print(f"one after the other / ahead, {'CPU ' if args.cpu else ''}seconds")
    with tempfile.TemporaryDirectory() as name, torch.inference_mode():
        folder, frames = Path(name), []
        (folder / "photos").mkdir()
        for index in range(args.images):
            noise = np.random.default_rng(index).integers(0, 255, (args.side // 8, args.side // 8, 3), np.uint8)
            frames.append(np.asarray(Image.fromarray(noise).resize((args.side, args.side))))
            Image.fromarray(frames[-1]).save(folder / "photos" / f"{index:03d}.jpg", quality=90)
        write_video(folder / "clip.mp4", frames)
        for case in args.only:
            sides = CASES[case](folder, model)
            one, two = (side() for side in sides.values())
            same(float(np.abs(one - two).max()), 0.0 if model.device.type == "cpu" else 1e-3, case)
            one, two = in_turn(sides, args.rounds, args.cpu).values()
            rates = ", ".join(f"{args.images / min(side):.2f}" for side in (one, two))
            print(f"{case}: {ratio(one, two)}; images/s {rates}", flush=True)


if __name__ == "__main__":
    main()
