"""dense-ctx train: a model, by any registered objective."""

from __future__ import annotations

import argparse
from pathlib import Path

from .arguments import add_settings, settings_of
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
        parser.add_argument("config", metavar="CONFIG", help="a YAML file (docs/training.md)")
        add_settings(parser, "changes to it: steps=100 optimizer.lr=1e-4 mixed_precision=no")
        parser.add_argument("--dry-run", action="store_true", help="two steps on whatever is there; nothing is kept")

    def run(self, args: argparse.Namespace) -> int:
        """Train; 128 + the signal's number when stopped by one."""
        import sys
        import tempfile

        from ..environment import processes
        from ..errors import StoppedError
        from ..train import TrainConfig, train

        config = TrainConfig.load(args.config, settings_of(args))
        try:
            if args.dry_run:
                with tempfile.TemporaryDirectory() as work:
                    train(config.dry(Path(work) / "dry-run"))
                if processes()[0] == 0:
                    print("two steps done; nothing was kept")
                return 0
            folder = train(config)
        except StoppedError as error:
            if processes()[0] == 0:
                print(error, file=sys.stderr)
            return 128 + error.signal
        if processes()[0] == 0:
            print(folder)
        return 0
