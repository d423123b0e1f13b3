"""dense-ctx demo: in-context segmentation of a real clip, offline."""

from __future__ import annotations

import argparse
from pathlib import Path

from dense_ctx.commands.arguments import add_model_argument, model_of, progress
from dense_ctx.commands.base import Command


class Demo(Command):
    """`dense-ctx demo`."""

    help = "segment a real clip from one annotated frame (no downloads)"
    stop_note = "finished pictures are in {out}"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Describe the options."""
        parser.add_argument("--out", type=Path, default=Path("dense-ctx-demo"), help="folder (%(default)s)")
        add_model_argument(parser)

    def run(self, args: argparse.Namespace) -> int:
        """Run the demo; print its scores and the paths of its files."""
        from . import demo

        result = demo.run(args.out, model_of(args), lambda frames, total: progress(frames, total, "frames"))
        print("\nIoU against hand-drawn annotations (frame 0 is the annotated example itself)")
        print(f"{'frame':>10}" + "".join(f"{name:>12}" for name in (*demo.CLASSES, "mean")))
        for frame, scores in result.iou.items():
            print(f"{frame:>10}" + "".join(f"{score:>12.3f}" for score in (*scores, sum(scores) / len(scores))))
        print(f"\noverlay video  {result.video}\ncontact sheet  {result.sheet}")
        return 0
