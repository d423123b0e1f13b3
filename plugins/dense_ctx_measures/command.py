"""dense-ctx measure: measures of features that need few labels or none."""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any

from dense_ctx.commands.arguments import add_model_argument, model_of, refuse, split_pair
from dense_ctx.commands.base import Command


class Measure(Command):
    """`dense-ctx measure`."""

    help = "temporal consistency, boundary quality and invariance of features (docs/measures.md)"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Describe the options."""
        add_model_argument(parser, positional=True)
        parser.add_argument(
            "--clip", type=Path, metavar="VIDEO", help="a video: consistency along optical flow (needs OpenCV)"
        )
        parser.add_argument("--frames", type=int, default=60, metavar="N", help="of the clip, at most (%(default)s)")
        parser.add_argument(
            "--scales", nargs="+", type=float, default=[1.0, 0.5], metavar="S", help="of the frames (1 0.5)"
        )
        parser.add_argument(
            "--gaps", nargs="+", type=int, default=[1, 2, 5, 10], metavar="N", help="in frames (1 2 5 10)"
        )
        parser.add_argument("--pairs", nargs="+", default=[], metavar="IMG:MASK", help="boundary quality")
        parser.add_argument("--images", nargs="+", type=Path, default=[], metavar="IMAGE", help="invariance")
        parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured")

    def run(self, args: argparse.Namespace) -> int:
        """Compute the measures whose inputs are given, and print them."""
        from dataclasses import asdict

        from dense_ctx.errors import InputError
        from dense_ctx.visualize import text_table as table

        if not (args.clip or args.pairs or args.images):
            raise InputError("measure needs --clip (consistency), --pairs (boundaries) or --images (invariance)")
        if not args.clip:
            refuse(args, ["frames", "scales", "gaps"], "without --clip")
        pairs = [split_pair(text) for text in args.pairs]
        model = model_of(args)
        results: dict[str, Any] = {"model": args.model}
        if args.clip:
            from dense_ctx.data.video import Video

            from .temporal import temporal_consistency

            frames = itertools.islice(Video(args.clip), args.frames)
            clip = temporal_consistency(model, frames, scales=args.scales, gaps=args.gaps)
            results["temporal"] = asdict(clip)
            lines = [[f"{s.scale:g}", str(s.gap), _number(s.consistency), _number(s.drop), _number(s.valid)]
                     for s in clip.settings]  # fmt: skip
            print(table([["scale", "gap", "consistency", "drop", "valid"], *lines]) + "\n")
        if pairs:
            from .boundary import boundary_quality

            edges = boundary_quality(model, pairs)
            results["boundary"] = asdict(edges)
            lines = [[_number(v) for v in (edges.ods, edges.ois, edges.precision, edges.recall, edges.floor)]]
            print(table([["boundary F (ODS)", "OIS", "precision", "recall", "floor"], *lines]) + "\n")
        if args.images:
            from .invariance import feature_invariance

            same = feature_invariance(model, args.images)
            results["invariance"] = asdict(same)
            print(table([["transform", "invariance"], *([s.transform, _number(s.invariance)] for s in same.settings)]))
        if args.json:
            from dense_ctx.evaluate.result import clean
            from dense_ctx.files import write_json

            print(f"\n{write_json(args.json, clean(results))}")
        return 0


def _number(value: float) -> str:
    return "-" if value != value else f"{value:.4f}"
