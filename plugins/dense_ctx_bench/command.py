"""dense-ctx bench: train and score heads on backbones, as a table."""

from __future__ import annotations

import argparse
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dense_ctx.commands.arguments import add_device_argument, refuse
from dense_ctx.commands.base import Command
from dense_ctx.config import parse_part
from dense_ctx.device import processes
from dense_ctx.files import write_text

if TYPE_CHECKING:
    from .plan import BenchTask


class BenchCommand(Command):
    """`dense-ctx bench`."""

    help = "train a small head on every backbone for every task, and tabulate the scores"
    stop_note = "finished cells, and the states of the last one, are in {out}; the same command resumes"
    epilog = (
        "A cell that is done is kept, one that failed is tried again: run the same command after an "
        "interruption. Example: dense-ctx bench --backbones efficientnet-lite0 'efficientnet-lite0(weights=null)' "
        "--heads maxa linear --tasks 'maxa-semantic(name=camvid, root=CAMVID)' --seeds 0 1 2 --out runs/bench"
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Describe the options."""
        parser.add_argument("preset", nargs="?", metavar="PRESET", help="a benchmark by name, or its YAML file")
        parser.add_argument(
            "--data", nargs="+", default=[], metavar="DATASET=ROOT", help="with a preset: where its data sets are"
        )
        parser.add_argument(
            "--backbones",
            nargs="+",
            metavar="NAME",
            help="NAME or NAME(key=value, ...); with a preset, some of its rows",
        )
        parser.add_argument(
            "--heads",
            nargs="+",
            default=["maxa"],
            metavar="NAME",
            help="decoders, as the backbones; lr= is the head's learning rate (maxa)",
        )
        parser.add_argument(
            "--tasks",
            nargs="+",
            metavar="TASK",
            help="OBJECTIVE(name=DATASET, root=PATH, ...), in quotes, with the data set's options and the objective's "
            "arguments, as in maxa(task=depth, ...); train= and val= name other splits than those, steps= and lr= are "
            "of its training, images= is a number of training images. `dense-ctx plugins` lists objectives, `dense-ctx "
            "datasets` data. With a preset, some of its columns",
        )
        parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="records, features and the table")
        parser.add_argument("--seeds", nargs="+", type=int, metavar="N", help="of the first weights and the order (0)")
        parser.add_argument(
            "--size", nargs=2, type=int, default=[224, 224], metavar=("H", "W"), help="of outputs (224)"
        )
        parser.add_argument(
            "--image-size", nargs=2, type=int, metavar=("H", "W"), help="default each backbone's native"
        )
        parser.add_argument("--steps", type=int, default=1000, metavar="N", help="of training (%(default)s)")
        parser.add_argument("--batch", type=int, default=16, metavar="N", help="images a step (%(default)s)")
        parser.add_argument(
            "--schedule", choices=["constant", "cosine"], default="constant", help="of the learning rate (%(default)s)"
        )
        parser.add_argument(
            "--held-out", type=float, default=0.1, metavar="SHARE", help="of the training images, to select by (0.1)"
        )
        parser.add_argument(
            "--select",
            choices=["score", "loss"],
            default="score",
            help="which of a head's states counts: by its score or its loss on the held-out images (%(default)s)",
        )
        parser.add_argument(
            "--no-cache",
            action="store_true",
            help="run the backbone in every step, in place of storing its features under --out",
        )
        add_device_argument(parser)

    def run(self, args: argparse.Namespace) -> int:
        """Run the cells, write table.md and report.html; 1 where one failed, 128 + the signal's number when stopped."""
        from dataclasses import replace

        from dense_ctx.config import Part
        from dense_ctx.errors import InputError, StoppedError

        from .plan import Bench
        from .presets import bench_of
        from .report import page, plots
        from .run import run_bench
        from .table import markdown

        if args.preset is not None:
            of_preset = ["heads", "size", "image_size", "steps", "batch", "schedule", "held_out", "select", "no_cache"]
            refuse(args, of_preset, "with a preset, which says it")
            bench = bench_of(args.preset, _roots(args.data), args.out, args.backbones, args.tasks, args.seeds)
        elif not args.backbones or not args.tasks:
            raise InputError("bench needs --backbones and --tasks, or a preset: `dense-ctx train --list`")
        else:
            refuse(args, ["data"], "without a preset: a task's brackets have its root")
            bench = Bench(
                args.out,
                tuple(map(parse_part, args.backbones)),
                tuple(map(parse_part, args.heads)),
                tuple(_task(text) for text in args.tasks),
                tuple(args.seeds or (0,)),
                (args.size[0], args.size[1]),
                None if args.image_size is None else (args.image_size[0], args.image_size[1]),
                args.steps,
                args.batch,
                args.held_out,
                not args.no_cache,
                args.schedule,
                args.select,
            )
        bench = replace(bench, device=args.device)
        numbers = {cell.name: number for number, cell in enumerate(bench.cells(), start=1)}
        errors: dict[str, str] = {}  # by the first cell that has it

        def title(cell: Any) -> str:
            task = Part(cell.task.objective, cell.task.args)
            return f"{cell.backbone} + {cell.head}, {task}, seed {cell.seed}"

        def begin(cell: Any) -> None:
            print(f"cell {numbers[cell.name]} of {len(numbers)}: {title(cell)}", file=sys.stderr, flush=True)

        def on_error(cell: Any, error: BaseException) -> None:
            if args.debug:
                print(f"cell {numbers[cell.name]}: {title(cell)}", file=sys.stderr)
                traceback.print_exception(error)

        def report(cell: Any, record: Any) -> None:
            if record["status"] == "done":
                value = f"{record['metric']} {record['value']:.4g}"
            else:
                first = errors.setdefault(record["error"], cell.name)
                value = record["error"] if first == cell.name else f"failed like cell {numbers[first]}"
            print(f"{title(cell)}: {value}", flush=True)

        try:
            records = run_bench(bench, report, begin, on_error)
        except StoppedError as error:
            print(error, file=sys.stderr)
            return 128 + error.signal
        if processes()[0]:  # the first of several processes writes the table
            return 0
        table = markdown(records)
        write_text(args.out / "table.md", table)
        write_text(args.out / "report.html", page(records))
        for name, picture in plots(records).items():
            write_text(args.out / "plots" / f"{name}.svg", picture)
        print(f"\n{table}\n{args.out / 'table.md'}, {args.out / 'report.html'}, {args.out / 'plots'}")
        failed = sum(record["status"] != "done" for record in records)
        if failed:
            print(f"{failed} of {len(records)} cells failed; the same command tries them again", file=sys.stderr)
        return int(failed > 0)


def _roots(words: list[str]) -> dict[str, str]:
    """DATASET=ROOT arguments as a mapping."""
    from dense_ctx.errors import InputError

    pairs = [word.partition("=") for word in words]
    if wrong := [word for word, (name, _, root) in zip(words, pairs, strict=True) if not name or not root]:
        raise InputError(f"--data {wrong[0]!r} is not DATASET=ROOT")
    return {name: root for name, _, root in pairs}


def _task(text: str) -> BenchTask:
    """The task of OBJECTIVE(name=DATASET, root=PATH, ...): what is no option of the data set is the objective's."""
    from dense_ctx.data import layout

    from .plan import BenchTask

    part = parse_part(text)
    values = dict(part.args)
    own: dict[str, Any] = {key: str(values.pop(key)) for key in ("train", "val") if key in values}
    own |= {key: values.pop(key) for key in ("steps", "lr", "images") if key in values}
    names = {"name", "root"}
    if "name" in values:
        names |= {name for name, _ in layout(str(values["name"])).options}
    data = {key: value for key, value in values.items() if key in names}
    return BenchTask(part.name, data, **own, args={key: value for key, value in values.items() if key not in names})
