"""Features of photographs: files read one after the other, and by a thread that is ahead (`progress.ahead`).

    python benchmarks/reading.py --images 48 --side 640

Seconds of both in turns. On a CPU the network uses all cores anyway, so there should be no difference; an accelerator
idles while a file is decoded.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from common import in_turn, machine, parse, ratio, same
from PIL import Image

from dense_ctx import AutoDenseModel
from dense_ctx.device import pick_device
from dense_ctx.images import load
from dense_ctx.progress import ahead


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="efficientnet-lite0")
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--side", type=int, default=640, help="of the photographs")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cpu", action="store_true", help="seconds of the processor, where others use it too")
    args = parse(parser, images=6, side=96, rounds=3)
    model = AutoDenseModel.from_parts(args.backbone, backbone_args={"weights": None}).eval().to(pick_device())
    sums = {}
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        paths = [Path(folder) / f"{index}.jpg" for index in range(args.images)]
        for index, path in enumerate(paths):
            noise = np.random.default_rng(index).integers(0, 255, (args.side // 8, args.side // 8, 3), np.uint8)
            Image.fromarray(noise).resize((args.side, args.side)).save(path, quality=90)
        readers = {"one after the other": lambda: map(load, paths), "ahead": lambda: ahead(load, paths)}

        def work(name):
            sums[name] = sum(float(model(image, size=(28, 28)).pixels.sum()) for image in readers[name]())

        sides = {name: lambda name=name: work(name) for name in readers}
        for side in sides.values():
            side()
        same(abs(sums["ahead"] - sums["one after the other"]), 0.0, "features")
        seconds = in_turn(sides, args.rounds, args.cpu)
    one, two = seconds.values()
    print(f"{machine()}; {args.backbone} on {model.device}, {args.images} photographs of {args.side} px")
    print(f"one after the other / ahead, {'CPU ' if args.cpu else ''}seconds: {ratio(one, two)}")
    print(f"images/s: {args.images / min(one):.2f} one after the other, {args.images / min(two):.2f} ahead")


if __name__ == "__main__":
    main()
