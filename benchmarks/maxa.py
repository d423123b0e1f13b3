"""Time and memory of MAXA's forward and backward pass, against other ways to dense predictions from the same features.

    python benchmarks/maxa.py                                  # 37 x 37 x 768 features, 224 x 224 output, batch 8

Each in a process of its own. They take turns, a step each, and the least of all rounds counts: seconds on the clock,
and CPU seconds of all threads, in which other programs on the machine do not show. Memory is the peak of a step above
what is there before it; for that to be true, freed memory goes back to the system at once in all of them (glibc).

The upsamplers are frozen and not trained through: the features are raised to the output's size without gradients, then
a 1 x 1 convolution learns. They do one image and are multiplied by the batch, and their memory is that of one image;
the bilateral one takes two small numbers of channels and is drawn out to all of them along the line through both.
"""

import argparse
import multiprocessing
import os
import time

from common import machine, parse, peak_mb_since, reset_peak, same

SMALL_BLOCKS = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
PARTS = (8, 24)  # channels of the bilateral upsampling
CHUNK = 3584  # pixels whose weights the windowed upsampling makes at once


def features(args, channels=None, batch=None):
    import torch

    from dense_ctx.interfaces import Features

    torch.manual_seed(0)
    batch = batch or args.batch
    maps = torch.randn(batch, channels or args.channels, args.grid, args.grid)
    return Features((maps,), None, (14 * args.grid, 14 * args.grid)), torch.randn(batch, 3, args.size, args.size)


def maxa(args):
    import torch
    from dense_ctx_maxa.maxa import Maxa

    torch.manual_seed(1)
    head = Maxa((args.channels,), (14,), dim=1, size=(args.size, args.size), grid=(args.grid, args.grid))
    return trained(args, head)


def full_matrices(args):
    """The same numbers, with all attention weights of both layers at once and kept for the backward pass."""
    import torch
    from dense_ctx_maxa import attention
    from dense_ctx_maxa.fused_attention import gaussian
    from dense_ctx_maxa.positions import squared_distances

    def plain(query, key, value, bias=0.0):
        return torch.softmax(query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5 + bias, -1) @ value

    def masked(query, key, value, points, cells, log_sigma, cell_bias):
        return plain(query, key, value, gaussian(squared_distances(points, cells), log_sigma) + cell_bias)

    attention.attend, attention.functional.scaled_dot_product_attention = masked, plain
    return maxa(args)


def cnn(args):
    from dense_ctx_maxa.heads import CnnHead

    return trained(args, CnnHead((args.channels,), (14,), dim=1))


def trained(args, head):
    found, images = features(args)
    size = (args.size, args.size)

    def step():
        head.zero_grad()
        loss = head(found, images, size).square().mean()
        loss.backward()
        return loss.item()

    return step, sum(p.numel() for p in head.parameters())


def bilateral(args, channels):
    """Joint bilateral upsampling in its unfolded form: 7 x 7 neighbours, weights of the image (FeatUp: four times)."""
    from torch.nn import functional

    def raised(maps, images):
        large = functional.interpolate(maps, size=images.shape[-2:], mode="bilinear")
        near = functional.unfold(images, 7, padding=3).unflatten(1, (3, 49))
        weights = (-(near - images.flatten(2)[:, :, None]).square().sum(1)).softmax(1)
        spread = functional.unfold(large, 7, padding=3).unflatten(1, (-1, 49))
        return (spread * weights[:, None]).sum(2).unflatten(-1, images.shape[-2:])

    return upsampled(args, channels, raised)


def windowed(args):
    """Each pixel attends, with 32-d keys, to the cells around its own, at most a tenth of the image away (AnyUp)."""
    import torch

    torch.manual_seed(1)
    key, query = torch.nn.Conv2d(args.channels, 32, 1), torch.nn.Conv2d(3, 32, 1)

    def raised(maps, images):
        grid, size = maps.shape[-1], images.shape[-1]
        keys, values = key(maps)[0].flatten(1), maps[0].flatten(1).T
        queries = query(images)[0].flatten(1).T / 32**0.5
        axis = torch.arange(grid)
        cell = torch.arange(size) * grid // size
        close = (axis - cell[:, None]).abs() <= grid // 10
        parts = []
        for start in range(0, size * size, CHUNK):
            pixels = torch.arange(start, min(start + CHUNK, size * size))
            mask = (close[pixels // size][:, :, None] & close[pixels % size][:, None]).flatten(1)
            logits = (queries[pixels] @ keys).masked_fill_(~mask, -torch.inf)
            parts.append(logits.softmax(-1) @ values)
        return torch.cat(parts).T.unflatten(1, (size, size))[None]

    return upsampled(args, args.channels, raised)


def upsampled(args, channels, raised):
    import torch

    found, images = features(args, channels, 1)
    head = torch.nn.Conv2d(channels, 1, 1)

    def step():
        head.zero_grad()
        with torch.no_grad():
            large = raised(found.maps[0], images)
        loss = head(large).square().mean()
        loss.backward()
        return loss.item()

    return step, args.channels + 1


def serve(pipe, function, arguments):
    """Prepare a step, then do one whenever asked to; answers (loss, seconds, CPU seconds, MB)."""
    step, parameters = function(*arguments)
    step()  # what is made once
    pipe.send(parameters)
    while pipe.recv():
        before = reset_peak()
        wall, own = time.perf_counter(), time.process_time()
        loss = step()
        pipe.send((loss, time.perf_counter() - wall, time.process_time() - own, peak_mb_since() - before))


class Worker:
    """A step in a process of its own."""

    def __init__(self, function, *arguments):
        self.pipe, theirs = multiprocessing.get_context("spawn").Pipe()
        context = multiprocessing.get_context("spawn")
        self.process = context.Process(target=serve, args=(theirs, function, arguments), daemon=True)
        self.process.start()
        theirs.close()
        self.parameters = self.pipe.recv()

    def step(self):
        self.pipe.send(True)
        return self.pipe.recv()

    def close(self):
        self.pipe.send(False)
        self.process.join()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("grid", 37), ("channels", 768), ("batch", 8), ("size", 224), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=value, help="(%(default)s)")
    args = parse(parser, grid=8, channels=32, batch=1, size=64, rounds=1)
    print(machine())
    print(f"{args.grid} x {args.grid} x {args.channels} features, {args.size} px out, batch {args.batch}", flush=True)
    one = argparse.Namespace(**{**vars(args), "batch": 1})
    heads = [(maxa, (args,)), (full_matrices, (args,)), (cnn, (args,)), (windowed, (one,))]
    heads += [(bilateral, (one, channels)) for channels in PARTS]
    os.environ.update(SMALL_BLOCKS)  # of the processes begun from here on
    workers = [Worker(function, *given) for function, given in heads]
    rounds = [[worker.step() for worker in workers] for _ in range(args.rounds)]
    for worker in workers:
        worker.close()
    best = [[min(found[k] for found in column) for k in (1, 2)] for column in zip(*rounds, strict=True)]
    peaks = [max(found[3] for found in column) for column in zip(*rounds, strict=True)]
    losses = [column[0][0] for column in zip(*rounds, strict=True)]
    apart = abs(losses[0] - losses[1]) / abs(losses[1])
    same(apart, 1e-4, "the loss with and without full matrices")
    print(f"loss with and without full matrices: apart by {apart:.1e} of it", flush=True)
    slope = [(more - less) / (PARTS[1] - PARTS[0]) for less, more in zip(best[-2], best[-1], strict=True)]
    line = [less + each * (args.channels - PARTS[0]) for less, each in zip(best[-2], slope, strict=True)]
    rows = [(function.__name__, *found) for (function, _), found in zip(heads[:3], best[:3], strict=True)]
    rows += [("windowed", *(args.batch * x for x in best[3])), ("bilateral", *(args.batch * x for x in line))]
    notes = ["", "", "", f"one image x {args.batch}"]
    notes += [f"{PARTS[0]} and {PARTS[1]} channels of one image, drawn out to {args.channels}, x {args.batch}"]
    print(f"{'':14}{'CPU s':>9}{'x':>7}{'s':>9}{'x':>7}{'MB':>8}{'x':>7}{'parameters':>12}")
    for k, (name, wall, own) in enumerate(rows):
        times = f"{own:9.3f}{own / rows[0][2]:7.2f}{wall:9.3f}{wall / rows[0][1]:7.2f}"
        memory = f"{peaks[k]:8.0f}{peaks[k] / max(peaks[0], 1):7.2f}"
        print(f"{name:14}{times}{memory}{workers[k].parameters:12}  {notes[k]}")


if __name__ == "__main__":
    main()
