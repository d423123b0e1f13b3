"""A training step of LILA by part, ours against the straightforward composition (`lila_plain.py`), in one run.

python benchmarks/lila_step.py [--backbone dinov2-s14] [--batch 4] [--size 224] [--dim 128] [--precision no]
python benchmarks/lila_step.py --device cuda --backbone dinov2-b14 --batch 32 --dim 192 --precision bf16

Weights are random, the clip is drawn (or of --clips). The straightforward PAMR takes minutes a step on a CPU: one image
and one iteration of each level are timed and multiplied, unless --full. With an accelerator (or --published) it goes on
with `lila_gpu.py`: a step from cached cues and with cue networks on the way, against the published time of a step.
"""

import argparse
import copy
import tempfile
import time
from contextlib import ExitStack, nullcontext
from unittest import mock

import lila_plain
import torch
from clock import Clock
from common import in_process, machine, parse, peak_mb_since, reset_peak, same
from dense_ctx_lila import feature_cue, matching, regression
from dense_ctx_lila import objective as ours
from dense_ctx_lila.pamr import refine
from dense_ctx_lila.ridge import ridge_fit
from drawn_clip import write_clip

from dense_ctx import AutoDenseModel, DenseModel
from dense_ctx.config import Part
from dense_ctx.interfaces import Features
from dense_ctx.train import TrainConfig, TrainStep
from dense_ctx.visualize import text_table as table

SOLVE, BACK_SOLVE = "solve (ridge fit)", "backward: solve"
BACK_LOSS, BACK_DECODER = "backward: loss, prediction", "backward: decoder"
PARTS = (
    "data: reading, cropping", "cue flow:dis", "encoder", "cue features: PAMR", "cue features: scaling", "decoder",
    SOLVE, "prediction", "loss", BACK_LOSS, BACK_SOLVE, BACK_DECODER, "optimizer", "other",
)  # fmt: skip
UNCOUNTED = "not counted"


class Bench:
    """Model, objective, optimisers and data."""

    def __init__(self, args):
        torch.manual_seed(0)
        torch.set_num_threads(args.threads)
        self.args, self.device = args, torch.device(args.device)
        if args.config:
            config = TrainConfig.load(args.config)
            backbone, decoder, settings = config.model.backbone, config.model.decoder, dict(config.objective.args)
            args.batch, args.precision, args.size = (
                config.batch_size,
                config.mixed_precision,
                settings["sampling"]["size"],
            )
        else:
            backbone, decoder = Part(args.backbone, {"weights": None}), Part("dpt", {"dim": args.dim})
            settings = {"sampling": {"size": args.size}}
        model = AutoDenseModel.from_parts(backbone, decoder).to(self.device)
        self.objective = ours.LilaObjective(**settings)
        self.model, self.data = model, self.objective.dataset(args.clips)
        self.step = TrainStep(model, self.objective, self.data).train()
        self.plain = DenseModel(model.backbone, copy.deepcopy(model.decoder).requires_grad_(True)).train()
        rate = {"lr": 1e-4, "weight_decay": 1e-5}
        self.optimizer = torch.optim.AdamW(self.step.groups, foreach=True, **rate)
        self.plain_optimizer = torch.optim.AdamW(self.plain.decoder.parameters(), foreach=False, **rate)
        self.data.sample(0, 0)  # the clip is decoded once and then kept

    def precision(self):
        return torch.autocast(self.device.type, torch.bfloat16) if self.args.precision == "bf16" else nullcontext()

    def batch(self, clock):
        """Samples of a step, flow on the way; the same for both sides."""
        cue = self.objective.cues.light["flow:dis"]
        with clock.part(PARTS[0]), mock.patch.object(cue, "forward", clock.timed(PARTS[1], cue.forward)):
            return self.objective.collate([self.data.sample(i % len(self.data), i) for i in range(self.args.batch)])

    def ours(self, clock):
        """A step as the training loop takes it, its parts wrapped in clocks: loss and gradients."""
        batch = self.batch(clock)
        with clock.part("other"), ExitStack() as stack:
            for place, name, part, back in (
                (self.model, "encode", "encoder", ()), (self.model, "decode", "decoder", (BACK_DECODER,)),
                (feature_cue, "refine", PARTS[3], ()), (feature_cue, "standardized", PARTS[4], ()),
                (feature_cue, "refined_shares", PARTS[3], ()), (feature_cue, "standardized_products", PARTS[4], ()),
                (regression, "ridge_fit", SOLVE, (BACK_SOLVE, BACK_LOSS)),
                (matching, "linear_matching", "loss", ()),  # our prediction, and most of our gradient, are among it
            ):  # fmt: skip
                stack.enter_context(mock.patch.object(place, name, clock.timed(part, getattr(place, name), *back)))
            self.optimizer.zero_grad()
            with self.precision():
                total = self.step(batch).total
            with clock.part(BACK_LOSS):
                total.backward()
            with clock.part("optimizer"):
                self.optimizer.step()
        return float(total.detach()), [p.grad for p in self.model.decoder.parameters()]

    def straight(self, clock):
        """The same step the long way."""
        batch, settings = self.batch(clock), self.objective
        images = [batch[role].to(self.device) for role in ("context", "query")]
        flows = [batch[f"{role}/flow:dis"].to(self.device) for role in ("context", "query")]
        with clock.part("other"):
            self.plain_optimizer.zero_grad()
            with self.precision():
                with clock.part("encoder"), torch.no_grad():
                    encoded = [self.model.encode(image) for image in images]
                decode = clock.timed("decoder", self.plain.decode, BACK_DECODER)
                size, side = (settings.sampling.size,) * 2, (settings.sampling.map_size,) * 2
                pixels = [decode(*one, size, side).float() for one in encoded]
            refined = self._refined([one for one, _ in encoded], images, clock)
            with clock.part(PARTS[4]):
                refined = lila_plain.standardized(*refined)
            context = torch.cat([refined[0], flows[0]], 1)
            every = settings.regression.stride
            offset = every // 2
            rows, context = (x[:, :, offset::every, offset::every].flatten(2).mT for x in (pixels[0], context))
            solve = clock.timed(SOLVE, lila_plain.ridge, BACK_SOLVE, BACK_LOSS)
            weights = solve(rows, context, settings.regression.penalty, settings.regression.relative)
            with clock.part("prediction"):
                predicted = lila_plain.predict(pixels[1].flatten(2).mT, weights).mT.unflatten(-1, pixels[1].shape[-2:])
            with clock.part("loss"):
                total = lila_plain.loss(predicted, [refined[1], flows[1]], settings.sigma, settings.gamma)
            with clock.part(BACK_LOSS):
                total.backward()
            with clock.part("optimizer"):
                self.plain_optimizer.step()
        return float(total.detach()), [p.grad for p in self.plain.decoder.parameters()]

    def _refined(self, encoded, images, clock):
        """The features cue before it is scaled: context, query."""
        maps, pictures = self._before_refining(encoded, images)
        if not self.objective.cues.feature_cue.pamr:
            return maps
        if self.args.full:
            with clock.part(PARTS[3]):
                return [lila_plain.pamr(x, image) for x, image in zip(maps, pictures, strict=True)]
        with clock.part(UNCOUNTED):
            clock.seconds[PARTS[3]] = 2 * len(maps[0]) * self._one_image(maps[0][:1], pictures[0][:1])
            return [refine(x, image) for x, image in zip(maps, pictures, strict=True)]

    def _before_refining(self, encoded, images):
        """What goes into PAMR, as the objective makes it: maps and pictures of contexts, then of queries."""
        maps = tuple(torch.cat(pair) for pair in zip(*(one.maps for one in encoded), strict=True))
        features, pictures = Features(maps, None, encoded[0].image_size), torch.cat(images)
        refined, scaled = [pictures], []
        with (
            torch.no_grad(),
            mock.patch.object(feature_cue, "few_cells", return_value=False),
            mock.patch.object(feature_cue, "refine", lambda maps, image, *_: refined.append(image) or maps),
            mock.patch.object(
                feature_cue,
                "standardized",
                lambda maps, real=feature_cue.standardized: scaled.append(maps) or real(maps.clone()),
            ),
        ):
            self.objective.cues.feature_cue(features, pictures, self.objective.sampling.map_size)
        return scaled[-1].chunk(2), refined[-1].chunk(2)

    def _one_image(self, x, image):
        """Seconds the straightforward PAMR takes for an image, from one iteration of each level."""
        total, first = 0.0, x
        for (level, resize), count in zip(
            lila_plain.levels(x, image), self.objective.cues.feature_cue.iterations, strict=True
        ):
            seconds = []
            for _ in range(3):
                clock = Clock(self.args.device, self.args.cpu_seconds)
                with clock.part("before"):
                    start, weights = resize(x), lila_plain.affinity(level)
                with clock.part("iteration"):
                    after = lila_plain.iterate(start, weights, 1)
                seconds.append(clock.seconds["before"] + count * clock.seconds["iteration"])
            total, x = total + min(seconds), after
        self.pamr_error = float((x - refine(first, image, iterations=(1, 1, 1))).abs().max() / x.abs().max())
        return total


def peak(args, side):
    """MB that a first step of one side adds to a fresh process."""
    bench = Bench(args)
    before = reset_peak()
    if args.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() / 1e6
    getattr(bench, side)(Clock(args.device, args.cpu_seconds))
    return (torch.cuda.max_memory_allocated() / 1e6 if args.device == "cuda" else peak_mb_since()) - before


def solve_alone(args, rounds=5, d=193, m=400):
    """Seconds of the fit and of its gradient at the paper's sizes: d with the column of ones, m channels of cues."""
    torch.manual_seed(0)
    rows = torch.randn(args.batch, (args.size // 7) ** 2, d - 1, device=args.device, requires_grad=True)
    targets = torch.randn(*rows.shape[:2], m, device=args.device)
    best = float("inf")
    for _ in range(rounds):
        clock = Clock(args.device, args.cpu_seconds)
        with clock.part("fit"):
            weights = ridge_fit(rows, targets, 0.1)
            weights.backward(torch.ones_like(weights))
        best = min(best, clock.seconds["fit"])
    return best


def compare(args):
    """Both sides in turn, the fastest of the rounds by part."""
    bench = Bench(args)
    sides, values = ("ours", "straight"), {}
    best = {side: {} for side in sides}
    for number in range(args.rounds + 1):
        for side in sides:
            clock = Clock(args.device, args.cpu_seconds)
            result = getattr(bench, side)(clock)
            values.setdefault(side, result if number else (result[0], [grad.clone() for grad in result[1]]))
            clock.seconds.pop(UNCOUNTED, None)
            total = sum(clock.seconds.values())
            if number and total < sum(best[side].values() or [float("inf")]):  # the first round warms up
                best[side] = dict.fromkeys(PARTS, 0.0) | clock.seconds
    (loss, grads), (target, reference) = values["ours"], values["straight"]
    a, b = (torch.cat([grad.flatten() for grad in each]) for each in (grads, reference))
    # the derivative of |x| jumps at 0: rounding flips a few signs among millions
    error = float((a - b).norm() / b.norm())
    rounding = 1 if args.precision == "no" else 100
    same(abs(loss - target) / abs(target), 1e-4 * rounding, "loss")
    same(error, 1e-2 * rounding, "gradients of the decoder")
    fast, slow = (sum(best[side].values()) for side in sides)
    lines = [["part", "ours, s", "share", "straightforward, s"]]
    for name in PARTS:
        a, b = best["ours"][name], best["straight"][name]
        lines.append([name, f"{a:.3f}", f"{100 * a / fast:.1f} %", f"{b:.3f}"])
    lines.append(["step", f"{fast:.3f}", "100 %", f"{slow:.3f}"])
    print(table(lines))
    multiplied = bench.objective.cues.feature_cue.pamr and not args.full
    scaled = " (its PAMR: an iteration of each level of an image, multiplied)" if multiplied else ""
    print(f"\nours {slow / fast:.1f} times faster than the straightforward step{scaled}: target 2")
    data = sum(best["ours"][name] for name in PARTS[:2])
    print(f"without data and flow, which are the same on both sides: {(slow - data) / (fast - data):.1f} times")
    own, alone = best["ours"][SOLVE] + best["ours"][BACK_SOLVE], solve_alone(args)
    print(
        f"solve, forward and backward: {100 * own / fast:.2f} % of the step; with d = 193, m = 400: {alone:.4f} s, ",
        end="",
    )
    print(f"{100 * alone / fast:.2f} %: target 2 %")
    print(f"loss {loss:.6f} and {target:.6f}; gradients: |a - b| / |b| = {error:.1e}", end="")
    print(f"; PAMR's after one iteration a level {bench.pamr_error:.1e}" if multiplied else "")
    if not args.skip_memory:
        fast, slow = (in_process(peak, args, side) for side in sides)
        print(f"a step adds at its peak {fast:.0f} MB to the process, the straightforward one {slow:.0f} MB")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--config", help="a preset or a training configuration, in place of the next four and precision"
    )
    parser.add_argument("--backbone", default="dinov2-s14")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", default="no", choices=["no", "bf16"], help="of both sides")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clips", help="a folder of clips instead of the drawn one")
    parser.add_argument("--full", action="store_true", help="run the straightforward PAMR to its end")
    parser.add_argument(
        "--cpu-seconds", action="store_true", help="of this process: others on the machine do not count"
    )
    parser.add_argument("--skip-memory", action="store_true")
    parser.add_argument("--published", action="store_true", help="the accelerator's part, on whatever device")
    parser.add_argument(
        "--cues", nargs="+", default=["depth:depth-anything-v2-small(weights=null)", "flow:raft-large(weights=null)"],
        help="of that part, beside the features",
    )  # fmt: skip
    parser.add_argument("--peak", type=float, help="TFLOP/s of the device in bfloat16, where its name does not say")
    parser.add_argument("--profile", type=int, default=0, metavar="N", help="that part's N heaviest operations")
    args = parse(
        parser, batch=2, size=56, dim=16, rounds=1, skip_memory=True, published=True, cues=["flow:dis"], full=True
    )
    with tempfile.TemporaryDirectory() as folder:
        if args.clips is None:
            args.clips = folder
            write_clip(folder)
        compare(args)
        if args.published or args.device == "cuda":
            from lila_gpu import published

            published(args)
    seconds = "CPU seconds of the process" if args.cpu_seconds else "seconds"
    print(f"{vars(args) | {'clips': ''}}\n{seconds}; {machine()}; {time.strftime('%Y-%m-%d')}")


if __name__ == "__main__":
    main()
