"""dense-ctx train: a model, by any registered objective."""

from __future__ import annotations

import argparse
from pathlib import Path

from .base import Command


class Train(Command):
    """`dense-ctx train`."""

    help = "train a model with a registered objective"
    epilog = (
        "Killed or stopped? The same command goes on where it was. Several processes: accelerate launch -m "
        "dense_ctx.cli train ..."
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Describe the options."""
        parser.add_argument(
            "words",
            nargs="*",
            metavar="CONFIG KEY=VALUE",
            help="a YAML file (docs/training.md), and what to change in it: steps=100 optimizer.lr=1e-4",
        )
        # argparse takes positional words before an option only: those behind it are the option's
        parser.add_argument("--dry-run", nargs="*", metavar="", help="two steps on whatever is there; nothing is kept")

    def run(self, args: argparse.Namespace) -> int:
        """Train; 128 + the signal's number when stopped by one."""
        import sys
        import tempfile

        from ..environment import processes
        from ..errors import InputError, StoppedError
        from ..train import TrainConfig, train

        words = [*args.words, *(args.dry_run or [])]
        if not words or "=" in words[0]:
            raise InputError("train needs CONFIG, a YAML file, before KEY=VALUE")
        config = TrainConfig.load(words[0], words[1:])
        try:
            if args.dry_run is not None:
                with tempfile.TemporaryDirectory() as folder:
                    train(config.dry(Path(folder) / "dry-run"))
                if processes()[0] == 0:
                    print("two steps done; nothing was kept")
                return 0
            made = train(config)
        except StoppedError as error:
            if processes()[0] == 0:
                print(error, file=sys.stderr)
            return 128 + error.signal
        if processes()[0] == 0:
            print(made)
        return 0
