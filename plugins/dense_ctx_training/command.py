"""dense-ctx train: a model, by any registered objective."""

from __future__ import annotations

import argparse
from pathlib import Path

from dense_ctx.commands.arguments import add_settings, refuse, settings_of
from dense_ctx.commands.base import Command


class Train(Command):
    """`dense-ctx train`."""

    help = "train a model with a registered objective"
    stop_note = "the last saved state stays; the same command resumes"
    epilog = (
        "Killed or stopped? The same command resumes. Several processes: accelerate launch -m dense_ctx.cli train ..."
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Describe the options."""
        parser.add_argument("config", nargs="?", metavar="CONFIG", help="a preset, or a YAML file (docs/training.md)")
        parser.add_argument("--list", action="store_true", help="list the presets; with CONFIG, print that one")
        add_settings(parser, "changes to it: steps=100 optimizer.lr=1e-4 mixed_precision=no")
        parser.add_argument("--device", help="the same as device=...: auto, cpu, cuda, cuda:1, mps")
        parser.add_argument("--dry-run", action="store_true", help="run two steps and keep nothing")

    def run(self, args: argparse.Namespace) -> int:
        """Train; 128 + the signal's number when stopped by one."""
        import sys
        import tempfile

        if args.list:
            refuse(args, ["settings", "dry_run", "device"], "with --list")
            return _list(args.config)
        from dense_ctx.device import processes
        from dense_ctx.errors import InputError, StoppedError
        from dense_ctx.train import TrainConfig, train

        if args.config is None:
            raise InputError("train needs a preset or a YAML file; --list shows the presets")
        device = [] if args.device is None else [f"device={args.device}"]
        config = TrainConfig.load(args.config, [*settings_of(args), *device])
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


def _list(name: str | None) -> int:
    """Print one preset's file, or each name with the first line of its file, which describes it."""
    from dense_ctx.plugins import registry

    if name is not None:
        print(registry().text("preset", name), end="")
        return 0
    names = registry().names("preset")
    for preset in names:
        first = registry().text("preset", preset).partition("\n")[0]
        print(f"{preset:<{max(map(len, names))}}  {first.lstrip('# ')}")
    return 0
