"""dense-ctx compare: results side by side, or beside a paper's table."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add(verbs: Any) -> None:
    """Describe the verb."""
    parser = verbs.add_parser("compare", help="results of one protocol side by side, or beside a published table")
    parser.add_argument("results", nargs="*", type=Path, metavar="JSON", help="result.json files, or their folders")
    parser.add_argument("--paper", metavar="TABLE", help="a published table such as lila:table1; alone, it is printed")
    parser.add_argument("--tables", action="store_true", help="list the published tables")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print a Markdown table."""
    from .. import papers
    from ..errors import InputError

    if args.tables:
        for name in papers.names():
            print(f"{name:<14} {papers.table(name).title}")
        return 0
    if not args.results:
        if args.paper is None:
            raise InputError("compare needs result.json files, --paper TABLE or --tables")
        print(papers.table(args.paper).render())
        return 0
    from ..evaluate.compare import compare
    from ..evaluate.result import Result

    paths = [path / "result.json" if path.is_dir() else path for path in args.results]
    print(compare([Result.load(path) for path in paths], args.paper))
    return 0
