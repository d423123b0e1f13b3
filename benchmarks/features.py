"""Features a second against the bare timm forward: what the library adds to the network.

    python benchmarks/features.py [--size 518] [--model vit_small_patch14_dinov2]

Both run the same random weights on the same image, turn about; the first column is the median of several rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from common import machine, parse, same

from dense_ctx import AutoDenseModel, DenseModel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=518)
    parser.add_argument("--model", default="vit_small_patch14_dinov2")
    parser.add_argument("--rounds", type=int, default=15)
    args = parse(parser, size=98, rounds=2)
    model = AutoDenseModel.from_parts(f"timm:{args.model}", "upsample", backbone_args={"weights": None})
    dpt = DenseModel.from_parts(model.backbone, "dpt")
    net: Any = model.backbone.net
    image = torch.rand(1, 3, args.size, args.size)
    mean, std = (torch.tensor(v)[:, None, None] for v in (model.backbone.mean, model.backbone.std))
    ready = (image - mean) / std

    def bare() -> torch.Tensor:
        return net.forward_features(ready)

    cases: dict[str, Callable[[], object]] = {
        "timm forward_features": bare,
        "DenseModel.encode (four maps)": lambda: model.encode(image),
        "with `upsample` decoder": lambda: model(image),
        "with `dpt` decoder": lambda: dpt(image),
    }
    with torch.inference_mode():
        tokens, features = bare(), model.encode(image)[0]
    patches = tokens[:, model.backbone.prefix_tokens :].mT.unflatten(2, features.maps[-1].shape[-2:])
    same(float((features.maps[-1] - patches).abs().max() / patches.abs().max()), 1e-4, "the last map and timm's tokens")
    times: dict[str, list[float]] = {name: [] for name in cases}
    with torch.inference_mode():
        for run in cases.values():
            run()
        for _ in range(args.rounds):
            for name, run in cases.items():
                start = time.perf_counter()
                run()
                times[name].append(time.perf_counter() - start)
    base = statistics.median(times["timm forward_features"])
    print(f"{args.model}, random weights, {args.size} x {args.size}, batch 1; {machine()}")
    for name, values in times.items():
        middle = statistics.median(values)
        # turn about, so slow moments of the machine fall on both: the median of the rounds' own ratios
        pairs = zip(values, times["timm forward_features"], strict=True)
        ratio = statistics.median(a / b for a, b in pairs)
        print(f"{name:32}{middle * 1e3:9.1f} ms {1 / middle:7.2f} images/s {100 * (ratio - 1):+8.1f} %")
    encode = min(times["DenseModel.encode (four maps)"]) / min(times["timm forward_features"])
    print(f"fastest rounds: encode / timm = {encode:.3f}; median of timm {base * 1e3:.1f} ms")


if __name__ == "__main__":
    main()
