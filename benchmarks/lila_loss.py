"""LILA's loss and its gradient in one pass: errors by precision of the products, time and memory beside whole maps.

    python benchmarks/lila_loss.py [--size 224] [--batch 1] [--dim 192] [--channels 768] [--cells 256] [--threads 1]

Both sides get features, coefficients, the refined cells' shares and two maps of flow, and end with the loss and the
gradients of features and coefficients. "whole maps" multiplies, compares and differentiates maps of all channels.
Errors are of the one pass beside the same in float64; the products are rounded as a GPU's are, on whatever device.
"""

import argparse
import statistics
import time

import torch
from common import in_process, in_turn, machine, parse, peak_mb_since, ratio, reset_peak, same
from dense_ctx_lila.losses import edge_loss
from dense_ctx_lila.matching_op import linear_matching
from dense_ctx_lila.targets import Targets


def given(args, dtype=torch.float32):
    """Pixels, weights, bias, targets, shares: features of unit variance, of which the weights explain most."""
    torch.manual_seed(0)
    batch, side, channels = args.batch, args.size, args.channels + 2
    coarse = torch.randn(batch, args.dim, side // 8, side // 8)
    pixels = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").movedim(1, -1)
    shares = torch.rand(batch, side, side, args.cells).pow(8)
    shares = shares / shares.sum(-1, keepdim=True)
    targets = [shares, 5 * torch.randn(batch, args.cells, args.channels), torch.randn(batch, args.channels),
               torch.randn(batch, side, side, 2)]  # fmt: skip
    weights, bias = torch.randn(batch, args.dim, channels) / args.dim**0.5, torch.randn(batch, channels)
    leaves = [each.to(dtype).requires_grad_() for each in (pixels, weights, bias)]
    return *leaves, Targets(*(each.to(dtype) for each in targets)), torch.full((channels,), 1 / channels, dtype=dtype)


def one_pass(pixels, weights, bias, targets, shares, products="float32"):
    total = linear_matching(pixels, weights, bias, targets, shares, products=products)[0]
    return total.detach(), *torch.autograd.grad(total, (pixels, weights, bias))


def whole_maps(pixels, weights, bias, targets, shares):
    prediction = (pixels.flatten(1, 2) @ weights + bias[:, None]).unflatten(1, pixels.shape[1:3]).movedim(-1, 1)
    target = targets.pixels().movedim(-1, 1)
    total = (prediction - target).abs().mean() + edge_loss(prediction, target)
    return total.detach(), *torch.autograd.grad(total, (pixels, weights, bias))


def errors(args):
    """Relative errors of loss and gradients, a row for each precision."""
    exact = one_pass(*given(args, torch.float64))
    print("| products | loss | gradient of the features | of the coefficients |\n|---|---|---|---|")
    for products in ("float32", "bf16x3", "tf32"):
        rounded = one_pass(*given(args), products)
        each = [float((one - two).norm() / two.norm()) for one, two in zip(rounded, exact, strict=True)]
        print(f"| {products} | {each[0]:.0e} | {each[1]:.0e} | {each[2]:.0e} |", flush=True)
        same(each[0], 1e-2, products)


def peak(args, side):
    torch.set_num_threads(args.threads)
    inputs = given(args)
    before = reset_peak()
    {"one pass": one_pass, "whole maps": whole_maps}[side](*inputs)
    return peak_mb_since() - before


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("size", 224), ("batch", 1), ("dim", 192), ("channels", 768), ("cells", 256), ("rounds", 3),
                          ("threads", torch.get_num_threads())):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parse(parser, size=32, dim=16, channels=40, cells=9, rounds=1)
    torch.set_num_threads(args.threads)
    errors(argparse.Namespace(**{**vars(args), "size": min(args.size, 64)}))
    inputs, results = given(args), {}
    sides = {"one pass": one_pass, "whole maps": whole_maps}

    def run(name):
        results[name] = sides[name](*inputs)

    run("one pass")
    seconds = in_turn({name: lambda name=name: run(name) for name in sides}, args.rounds, cpu_seconds=True)
    for index, limit in ((0, 1e-5), (1, 1e-2), (2, 1e-2)):  # |x| has no derivative at 0: rounding flips a few signs
        one, two = results["one pass"][index], results["whole maps"][index]
        same(float((one - two).norm() / two.norm()), limit, ("loss", "gradient of features", "of coefficients")[index])
    for name, values in seconds.items():
        print(f"{name}: {statistics.median(values):.2f} CPU seconds, median; {in_process(peak, args, name):.0f} MB")
    print(f"whole maps / one pass {ratio(seconds['whole maps'], seconds['one pass'])}")
    print(f"{vars(args)}; {machine()}; {time.strftime('%Y-%m-%d')}")


if __name__ == "__main__":
    main()
