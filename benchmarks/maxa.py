"""Time and memory of MAXA's forward and backward pass, against other ways to dense predictions from the same features.

    python benchmarks/maxa.py                                  # 37 x 37 x 768 features, 224 x 224 output, batch 8
    python benchmarks/maxa.py --grid 8 --channels 32 --batch 1 --size 64 --repeats 1      # a quick look

Each in a process of its own; medians. The upsamplers are timed on as many channels and images as --part says and
scaled to all of them, for they would not finish otherwise; their memory is that of the part.
"""

import argparse

from common import in_process, machine, median_seconds, peak_mb_since, reset_peak


def features(args, channels, batch):
    import torch

    from dense_ctx.interfaces import Features

    torch.manual_seed(0)
    maps = torch.randn(batch, channels, args.grid, args.grid)
    return Features((maps,), None, (14 * args.grid, 14 * args.grid)), torch.randn(batch, 3, args.size, args.size)


def adapter(args, **more):
    from dense_ctx_maxa.maxa import Maxa

    return Maxa((args.channels,), (14,), dim=1, size=(args.size, args.size), grid=(args.grid, args.grid), **more)


def maxa(args):
    return measure(args, adapter(args))


def full_matrices(args):
    """The same numbers, with all attention weights of both layers at once and kept for the backward pass."""
    import torch
    from dense_ctx_maxa import attention

    def plain(query, key, value, attn_mask=None):
        logits = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        logits = logits if attn_mask is None else logits + attn_mask
        return torch.softmax(logits, -1) @ value

    attention.CHUNK_BYTES = 1 << 60
    attention.functional.scaled_dot_product_attention = plain
    return measure(args, adapter(args))


def cnn(args):
    from dense_ctx_maxa.heads import CnnHead

    return measure(args, CnnHead((args.channels,), (14,), dim=1))


def bilateral(args):
    """Joint bilateral upsampling in its unfolded form (7 x 7, weights from the image), then a 1 x 1 convolution."""
    import torch
    from torch.nn import functional

    def run(maps, images, head):
        large = functional.interpolate(maps, size=images.shape[-2:], mode="bilinear")
        near = functional.unfold(images, 7, padding=3).unflatten(1, (3, 49))
        weights = (-(near - images.flatten(2)[:, :, None]).square().sum(1)).softmax(1)
        spread = functional.unfold(large, 7, padding=3).unflatten(1, (-1, 49))
        return head((spread * weights[:, None]).sum(2).unflatten(-1, images.shape[-2:]))

    return measure_part(args, run, torch)


def windowed(args):
    """Each pixel attends to the 5 x 5 cells around it (32-d keys), then a 1 x 1 convolution."""
    import torch
    from torch.nn import functional

    torch.manual_seed(1)
    key, query = torch.nn.Conv2d(args.part, 32, 1), torch.nn.Conv2d(3, 32, 1)

    def run(maps, images, head):
        grid, size = maps.shape[-1], images.shape[-1]
        cell = (torch.arange(size) * grid // size)[:, None] * grid + torch.arange(size) * grid // size
        keys = functional.unfold(key(maps), 5, padding=2).unflatten(1, (32, 25))[..., cell.flatten()]
        weights = (query(images).flatten(2)[:, :, None] * keys).sum(1).softmax(1)
        values = functional.unfold(maps, 5, padding=2).unflatten(1, (-1, 25))[..., cell.flatten()]
        return head((values * weights[:, None]).sum(2).unflatten(-1, (size, size)))

    return measure_part(args, run, torch)


def measure(args, head):
    found, images = features(args, args.channels, args.batch)
    size = (args.size, args.size)

    def step():
        head.zero_grad()
        head(found, images, size).square().mean().backward()

    step()
    before = reset_peak()
    seconds = median_seconds(step, args.repeats)
    return seconds, peak_mb_since() - before, sum(p.numel() for p in head.parameters()), ""


def measure_part(args, run, torch):
    found, images = features(args, args.part, 1)
    maps = found.maps[0].requires_grad_()  # what learns the upsampling lies before it
    head = torch.nn.Conv2d(args.part, 1, 1)

    def step():
        maps.grad = None
        head.zero_grad()
        run(maps, images, head).square().mean().backward()

    step()
    before = reset_peak()
    scale = args.channels * args.batch / args.part
    note = f"timed on {args.part} channels of one image, x {scale:g}"
    return median_seconds(step, args.repeats) * scale, peak_mb_since() - before, args.channels + 1, note


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("grid", 37), ("channels", 768), ("batch", 8), ("size", 224), ("part", 16), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=value, help="(%(default)s)")
    args = parser.parse_args()
    print(machine())
    print(f"{args.grid} x {args.grid} x {args.channels} features, {args.size} px out, batch {args.batch}")
    print(f"{'':16}{'s':>9}{'x':>8}{'MB':>9}{'x':>7}{'parameters':>13}")
    base = None
    for function in (maxa, full_matrices, cnn, bilateral, windowed):
        seconds, memory, parameters, note = in_process(function, args)
        base = base or (seconds, max(memory, 1e-9))
        ratios = f"{seconds:9.3f}{seconds / base[0]:8.2f}{memory:9.0f}{memory / base[1]:7.2f}"
        print(f"{function.__name__:16}{ratios}{parameters:13}  {note}", flush=True)


if __name__ == "__main__":
    main()
