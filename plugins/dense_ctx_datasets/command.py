"""dense-ctx datasets: list the data sets, show their folder layouts, and check a root."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dense_ctx.commands.arguments import add_settings, progress, refuse, settings_of
from dense_ctx.commands.base import Command

if TYPE_CHECKING:
    from dense_ctx.data import Layout


class Datasets(Command):
    """`dense-ctx datasets`."""

    help = "list data sets, show a layout, check a root (nothing is downloaded)"
    description = "Without arguments: all data sets. NAME: its expected layout. NAME ROOT: check the files."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Describe the options."""
        parser.add_argument("name", nargs="?", metavar="NAME", help="a data set")
        parser.add_argument("root", nargs="?", type=Path, metavar="ROOT", help="its folder, to check")
        parser.add_argument("--split", metavar="S", help="train, val ...; default: the first that NAME lists")
        parser.add_argument("--limit", type=int, metavar="N", help="read N samples, evenly spread; default all")
        parser.add_argument("--picture", type=Path, metavar="FILE", help="write a sample with its annotation here")
        parser.add_argument(
            "--complete", action="store_true", help="status 1 also if the number of samples is not the published one"
        )
        add_settings(parser, "options that NAME lists: target=normals")

    def run(self, args: argparse.Namespace) -> int:
        """Print; 1 if the check finds problems."""
        from dense_ctx import data as datasets
        from dense_ctx.config import override

        from .check import check_root

        if args.root is None:
            of_root = ["split", "limit", "picture", "complete", "settings"]
            refuse(args, of_root, "without ROOT, the data set's folder")
        if args.name is None:
            _list([datasets.layout(name) for name in datasets.names()])
            return 0
        if args.root is None:
            _show(datasets.layout(args.name))
            return 0
        options = override({}, *settings_of(args))
        bar = partial(progress, what="reading", unit="sample")
        report = check_root(args.name, args.root, args.split, args.limit, bar, **options)
        print(report.text())
        if args.picture is not None and report.picture is not None:
            from dense_ctx.visualize import save_picture

            print(f"  {'picture':<9} {save_picture(args.picture, report.picture)}")
        elif args.picture is not None:
            print(f"  {'picture':<9} none: no sample could be read")
        return 1 if report.problems or (args.complete and not report.complete) else 0


def _list(layouts: list[Layout]) -> None:
    header = ("NAME", "KIND", "SPLITS")
    rows = [(one.name, one.kind, " ".join(one.splits)) for one in layouts]
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(3)]
    indent = " " * (widths[0] + 2)
    print("  ".join(cell.ljust(width) for cell, width in zip(header, widths, strict=True)) + "  LICENCE, URL")
    for one, row in zip(layouts, rows, strict=True):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + f"  {one.licence}")
        if one.url != one.licence:
            print(f"{indent}{one.url}")
    print("\nNothing is downloaded. `dense-ctx datasets NAME` shows the expected files.")


def _show(layout: Layout) -> None:
    print(f"{layout.name}: {layout.title}\n")
    print(layout.describe())
    counts = ", ".join(f"{split} {layout.counts[split]}" for split in layout.splits if split in layout.counts)
    print(f"\nkind     {layout.kind}\nsplits   {', '.join(layout.splits)} (default {layout.splits[0]})")
    if counts:
        print(f"counts   {counts}")
    for key, what in layout.options:
        print(f"option   {key}: {what}")
    print(f"from     {layout.url}\nlicence  {layout.licence}")
