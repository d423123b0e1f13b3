"""Time and memory of the upsamplers beside the other decoders, on random features of a ViT-S/14.

    python benchmarks/upsamplers.py [--size 448] [--rounds 5] [--only anyup jafar]

Decoders have random weights: neither depends on their values. Time is without the backbone and the least of a decoder's
rounds, on the clock and in CPU seconds of all threads, in which other programs on the machine show less. Memory is what
a forward adds at its peak, beside weights, maps and image, in a process that gives freed memory back at once.
`lila-lite0` is its decoder on maps of EfficientNet-Lite0 in place of the ViT's; `maxa` has the 32 channels of its
default. `featup` and `uplift` raise the map 16 times, whatever size is asked for, and then resize.
"""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

from common import in_process, machine, parse, peak_mb_since, reset_peak

DIM, STRIDE, LAYERS = 384, 14, 4
NAMES = ("upsample", "dpt", "lila-lite0", "maxa", "featup", "jafar", "anyup", "naf", "loftup", "uplift")
SMALL_BLOCKS = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
OTHER_SIZE = ("featup", "uplift")  # 16 times the map


def decoder_of(name: str, size: int) -> tuple[Any, tuple[int, ...], tuple[int, ...]]:
    """The decoder, and the dims and strides of its backbone."""
    from dense_ctx import AutoDenseModel, registry

    if name == "lila-lite0":
        model = AutoDenseModel.from_pretrained(name)
        return model.decoder, model.backbone.dims, model.backbone.strides
    dims, strides = (DIM,) * LAYERS, (STRIDE,) * LAYERS
    args = {"upsample": {"layers": [-1]}, "maxa": {"size": (size // 8 * 8, size // 8 * 8)}}.get(name, {})
    return registry().create("decoder", name, dims=dims, strides=strides, **args), dims, strides


def forward(name: str, size: int, rounds: int) -> tuple[float, float, float, int, int]:
    """Seconds on the clock and of the processors, peak MB, output channels and number of weights."""
    import torch

    from dense_ctx.interfaces import Features

    torch.manual_seed(0)
    decoder, dims, strides = decoder_of(name, size)
    decoder.eval()
    maps = tuple(torch.randn(1, dim, size // s, size // s) for dim, s in zip(dims, strides, strict=True))
    features, image = Features(maps, None, (size, size)), torch.randn(1, 3, size, size)
    clock, processors = [], []
    with torch.inference_mode():
        decoder(features, image, (size, size))
        before = reset_peak()
        for _ in range(rounds):
            began, busy = time.perf_counter(), time.process_time()
            decoder(features, image, (size, size))
            clock.append(time.perf_counter() - began)
            processors.append(time.process_time() - busy)
    weights = sum(value.numel() for value in decoder.parameters())
    return min(clock), min(processors), peak_mb_since() - before, decoder.dim, weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=448)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=list(NAMES), choices=NAMES)
    args = parse(parser, size=56, rounds=1)
    grid = args.size // STRIDE
    print(f"{grid} x {grid} x {DIM} features to {args.size} x {args.size}; {machine()}")
    print(f"{'decoder':12}{'ms':>9}{'CPU ms':>9}{'adds MB':>10}{'weights':>12}{'channels':>10}")
    for name in args.only:
        clock, processors, _, channels, weights = in_process(forward, name, args.size, args.rounds)
        os.environ.update(SMALL_BLOCKS)
        _, _, peak, _, _ = in_process(forward, name, args.size, 1)
        for key in SMALL_BLOCKS:
            del os.environ[key]
        note = "  then resized" if name in OTHER_SIZE else ""
        figures = f"{clock * 1e3:9.0f}{processors * 1e3:9.0f}{peak:10.0f}{weights:12,}{channels:10}"
        print(f"{name:12}{figures}{note}", flush=True)


if __name__ == "__main__":
    main()
