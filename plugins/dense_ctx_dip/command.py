"""dense-ctx pseudo-label: make in-context tasks from unlabelled images, for DIP to train on."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dense_ctx.commands.arguments import model_from_spec
from dense_ctx.commands.base import Command


class PseudoLabel(Command):
    """`dense-ctx pseudo-label`."""

    help = "make in-context tasks (pseudo-labels, positive pairs) from unlabelled images"
    description = (
        "Stages: segment, embed, cluster, vote, pair. Finished files are kept: run it again after an "
        "interruption. Under `accelerate launch -m dense_ctx.cli pseudo-label ...` the images are shared out."
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Describe the options."""
        parser.add_argument("images", type=Path, metavar="IMAGES", help="folder of images, with its subfolders")
        parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the tasks; training reads them")
        parser.add_argument(
            "--model",
            default="efficientnet-lite0+upsample",
            help="published model, or BACKBONE+DECODER, whose features make the pseudo-classes (%(default)s)",
        )
        parser.add_argument("--segmenter", default="ncut", help="ncut (the default), slic, diffcut, or patches (none)")
        parser.add_argument(
            "--set", nargs="+", default=[], metavar="KEY=VALUE", help="arguments of the segmenter: tau=0.4 alpha=10"
        )
        for flag, default, metavar, text in (
            ("--side", 448, "PIXELS", "short side at which images are read"),
            ("--classes", 1000, "N", "pseudo-classes"),
            ("--subset", 200_000, "N", "images that k-means sees, at most"),
            ("--iterations", 20, "N", "of k-means"),
            ("--seed", 0, "N", "of k-means"),
            ("--neighbours", 5, "N", "nearest images tried as positives"),
        ):
            parser.add_argument(flag, type=int, default=default, metavar=metavar, help=f"{text} (%(default)s)")
        parser.add_argument(
            "--shared", type=float, default=0.05, metavar="SHARE", help="least share of a common class (%(default)s)"
        )
        parser.add_argument("--kmeans", choices=["auto", "torch", "faiss"], default="auto", help="auto: faiss if large")
        parser.add_argument("--objective", default="dip", help=argparse.SUPPRESS)
        parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps, or auto (the default)")

    def run(self, args: argparse.Namespace) -> int:
        """Make what is not there yet."""
        from dense_ctx.environment import processes
        from dense_ctx.errors import InputError
        from dense_ctx.plugins import registry

        entry, _ = registry().get("objective", args.objective)
        prepare = getattr(registry().resolve(entry), "prepare", None)
        if prepare is None:
            raise InputError(f"The objective {args.objective} makes no data (it has no `prepare`)")
        keys = ("side", "classes", "subset", "iterations", "seed", "neighbours", "shared", "kmeans", "segmenter")
        settings = {key: getattr(args, key) for key in keys} | {"segmenter_args": _arguments(args.set)}
        rank, _ = processes()
        model = model_from_spec(args.model, args.device)
        folder = prepare(args.images, args.out, model, name=args.model, progress=_bar(rank), **settings)
        if rank == 0:
            print(f"{folder / 'pairs.jsonl'} and labels; look at {folder / 'report' / 'index.html'}")
        return 0


def _arguments(settings: list[str]) -> dict[str, Any]:
    import yaml

    from dense_ctx.errors import InputError

    found = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise InputError(f"--set {setting!r} is not KEY=VALUE")
        try:
            found[key] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise InputError(f"--set {setting!r}: the value is not YAML") from None
    return found


def _bar(rank: int) -> Any:
    """A bar on stderr for each process, one below the other."""
    from tqdm import tqdm

    def show(items: Iterable[Any], total: int, what: str) -> Iterable[Any]:
        return tqdm(items, total=total or None, desc=what, position=rank, disable=not total)

    return show
