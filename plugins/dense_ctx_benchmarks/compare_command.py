"""dense-ctx compare: a table of results, with a paper's rows on request."""

from __future__ import annotations

import argparse
from pathlib import Path

from dense_ctx.commands.arguments import refuse
from dense_ctx.commands.base import Command


class Compare(Command):
    """`dense-ctx compare`."""

    help = "results of one protocol side by side, or beside a published table"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Describe the options."""
        parser.add_argument(
            "results", nargs="*", type=Path, metavar="JSON", help="result.json files, their folders, or bench's"
        )
        parser.add_argument(
            "--paper", metavar="TABLE", help="a published table such as lila:table1; alone, it is printed"
        )
        parser.add_argument("--tables", action="store_true", help="list the published tables")

    def run(self, args: argparse.Namespace) -> int:
        """Print a Markdown table."""
        from dense_ctx.errors import InputError

        from . import papers

        if args.tables:
            refuse(args, ["results", "paper"], "with --tables")
            for name in papers.names():
                print(f"{name:<14} {papers.table(name).title}")
            return 0
        if not args.results:
            if args.paper is None:
                raise InputError("compare needs result.json files, --paper TABLE or --tables")
            print(papers.table(args.paper).render())
            return 0
        from dense_ctx.evaluate.result import Result

        from .bench_cells import beside, is_bench
        from .compare import compare

        folders = [path for path in args.results if is_bench(path)]
        if folders:
            if len(folders) < len(args.results) or args.paper is None:
                raise InputError("Folders of `dense-ctx bench` stand beside --paper TABLE, and with no other results")
            print(beside(folders, args.paper))
            return 0
        paths = [path / "result.json" if path.is_dir() else path for path in args.results]
        print(compare([Result.load(path) for path in paths], args.paper))
        return 0
