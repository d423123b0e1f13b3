"""dense-ctx score: J and F of folders of masks, as in the DAVIS evaluation."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from dense_ctx.commands.base import Command


class Score(Command):
    """`dense-ctx score`."""

    help = "J and F of predicted masks (PNG), as computed by the DAVIS evaluator"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Describe the options."""
        parser.add_argument(
            "predictions", type=Path, metavar="PREDICTIONS", help="a folder with one folder of PNGs per sequence"
        )
        parser.add_argument("truth", type=Path, metavar="TRUTH", help="the annotations, such as DAVIS/Annotations/480p")
        parser.add_argument(
            "--sequences", type=Path, metavar="FILE", help="names, one per line, such as ImageSets/2017/val.txt"
        )
        parser.add_argument("--binary", action="store_true", help="DAVIS-2016: any value above 0 is the object")
        parser.add_argument("--processes", type=int, metavar="N", help="worker processes (number of cores)")
        parser.add_argument("--json", action="store_true", help="print JSON, with every object")

    def run(self, args: argparse.Namespace) -> int:
        """Print the table the official evaluator prints."""
        import json

        from dense_ctx.errors import FileError

        from .davis import score_folders

        names = None
        if args.sequences is not None:
            try:
                names = args.sequences.read_text(encoding="utf-8").split()
            except (OSError, UnicodeDecodeError) as error:
                raise FileError(f"Cannot read the list {args.sequences}: {error}") from None
        processes = (os.cpu_count() or 1) if args.processes is None else args.processes
        scores = score_folders(args.truth, args.predictions, names, binary=args.binary, processes=processes)
        if args.json:
            print(json.dumps(scores, indent=1))
            return 0
        objects = scores.pop("objects")
        print("  ".join(f"{key:>9}" for key in scores))
        print("  ".join(f"{value:>9.4f}" for value in scores.values()))
        print(f"{len(objects)} objects; the first and the last frame are not scored; averages are over objects")
        return 0
