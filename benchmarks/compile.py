"""What torch.compile gains, features and training steps, eager and compiled in turn in one process.

    python benchmarks/compile.py            # minutes, most of them the compiler's

Features of an image, and steps of the three objectives (losses and gradients; the optimizer is the same for both), with
random weights. Both sides must agree before there is a ratio: of CPU seconds of the process, which other processes
lengthen little, and of the clock's. "made in" is the first call: the compiler's work, by the clock.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import in_turn, machine, parse, ratio, same
from drawn_clip import write_clip

from dense_ctx import AutoDenseModel, registry
from dense_ctx.train import TrainStep
from dense_ctx.visualize import text_table

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from dip_data import tasks
from maxa_scenes import Boxes


def backbone(args: argparse.Namespace) -> dict[str, Any]:
    return {"weights": None, **({"depth": 4, "embed_dim": 48, "num_heads": 2, "layers": [0, 1]} if args.quick else {})}


def vit(args: argparse.Namespace, decoder: str, **decoder_args: Any) -> Any:
    return AutoDenseModel.from_parts("dinov2-s14", decoder, backbone_args=backbone(args), decoder_args=decoder_args)


def step_of(args: argparse.Namespace, model: Any, objective: Any, data: Any) -> tuple[TrainStep, Any]:
    step = TrainStep(model, objective, data).train()
    return step, objective.collate([data.sample(i % len(data), i) for i in range(args.batch)])


def lila(args: argparse.Namespace, work: Path) -> tuple[TrainStep, Any]:
    """As published but for the cues with weights."""
    write_clip(work)
    sampling = {"size": args.side, "frame_side": 2 * args.side, "cue_side": args.side, "map_size": args.side}
    regression = {"relative": False, "bias": "none"}
    objective = registry().create(
        "objective", "lila", sampling=sampling, regression=regression, balance="channels", centre=0
    )
    model = vit(args, "dpt", dim=16 if args.quick else 128, norm=True, shortcut=False)
    return step_of(args, model, objective, objective.dataset(work))


def dip(args: argparse.Namespace, work: Path) -> tuple[TrainStep, Any]:
    """The projector an eighth as wide as published."""
    objective = registry().create("objective", "dip", loss="official", size=args.side, out=768)
    return step_of(args, vit(args, "upsample"), objective, objective.dataset(tasks(work, 8, (args.side, args.side))))


def maxa(args: argparse.Namespace, work: Path) -> tuple[TrainStep, Any]:
    side = [args.side, args.side]
    objective = registry().create("objective", "maxa-semantic", size=side, image_size=side)
    model = vit(args, "maxa", dim=3, size=side)
    return step_of(args, model, objective, objective.dataset(Boxes("segmentation", 8, size=(args.side, args.side))))


def step_sides(
    step: TrainStep, batch: Any, backend: str
) -> tuple[Callable[[], Any], Callable[[], Any], Callable[[], float]]:
    """Eager, compiled, and by how much their losses and gradients differ, relative."""
    results: dict[bool, tuple[torch.Tensor, torch.Tensor]] = {}
    step.compile(backend)

    def work(compiled: bool) -> None:
        step.compiled = compiled
        step.zero_grad()
        loss = step(batch).total
        loss.backward()
        grads = [p.grad.flatten() for p in step.parameters() if p.grad is not None]
        results[compiled] = loss.detach(), torch.cat(grads)

    def difference() -> float:
        (loss, grads), (wanted, of_each) = results[True], results[False]
        return max(float((loss - wanted).abs() / wanted.abs()), float((grads - of_each).norm() / of_each.norm()))

    return lambda: work(False), lambda: work(True), difference


def feature_sides(
    model: Any, image: torch.Tensor, backend: str
) -> tuple[Callable[[], Any], Callable[[], Any], Callable[[], float]]:
    graph, results = torch.compile(model.eval(), fullgraph=True, backend=backend), {}

    @torch.no_grad()
    def work(call: Any) -> None:
        results[call is graph] = call(image).pixels

    def difference() -> float:
        return float((results[True] - results[False]).norm() / results[False].norm())

    return lambda: work(model), lambda: work(graph), difference


def cases(args: argparse.Namespace, work: Path) -> dict[str, Callable[[], Any]]:
    draw = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, args.image, args.image, generator=draw)
    lite = {"weights": None, "layers": [1, 2, 3, 4]}
    adapter = {"dim": 128, "width": 64, "shortcut": True}
    sides: dict[str, Callable[[], Any]] = {
        "features, EfficientNet-Lite0 + dpt, as lila-lite0": lambda: feature_sides(
            AutoDenseModel.from_parts("efficientnet-lite0", "dpt", backbone_args=lite, decoder_args=adapter),
            image,
            args.backend,
        ),
        "features, ViT-S/14 + dpt": lambda: feature_sides(
            vit(args, "dpt", dim=16 if args.quick else 128), image, args.backend
        ),
    }
    for name, make in (("LILA", lila), ("DIP", dip), ("MAXA semantic", maxa)):
        folder = work / name
        folder.mkdir()
        sides[f"step, {name}"] = lambda make=make, folder=folder: step_sides(*make(args, folder), args.backend)  # type: ignore[misc]
    return sides


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=int, default=448, help="side of the images whose features are computed")
    parser.add_argument("--side", type=int, default=112, help="of the crops of a step")
    parser.add_argument("--batch", type=int, default=4, help="samples of a step")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", type=int, nargs="+", metavar="N", help="these rows, from 0")
    parser.add_argument("--backend", default="inductor", help="of torch.compile; others generate no code")
    args = parse(parser, image=56, side=56, batch=2, rounds=1, backend="aot_eager")
    torch.set_num_threads(args.threads)
    lines = [["", "eager, CPU s", "compiled, CPU s", "eager / compiled", "by the clock", "differ by", "made in, s"]]
    with tempfile.TemporaryDirectory() as folder:
        rows = list(cases(args, Path(folder)).items())
        for name, make in rows if args.only is None else [rows[number] for number in args.only]:
            torch.manual_seed(0)
            torch._dynamo.reset()
            eager, compiled, difference = make()
            eager()
            began = time.perf_counter()
            compiled()
            compilation = time.perf_counter() - began
            same(difference(), 1e-3, name)
            seconds = in_turn({"eager": eager, "compiled": compiled}, args.rounds, cpu_seconds=True)
            clock = in_turn({"eager": eager, "compiled": compiled}, max(1, args.rounds // 2))
            each = [f"{min(seconds[side]):.3f}" for side in ("eager", "compiled")]
            gains = [ratio(one["eager"], one["compiled"]) for one in (seconds, clock)]
            lines.append([name, *each, *gains, f"{difference():.0e}", f"{compilation:.0f}"])
            print(text_table([lines[0], lines[-1]]), flush=True)
    print(f"\n{text_table(lines)}\n")
    print(f"features of an image of {args.image} px, steps of {args.batch} samples of {args.side} px; {machine()}")


if __name__ == "__main__":
    main()
