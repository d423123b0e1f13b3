"""dense-ctx adapt: train a model's decoder further on a clip without labels, for what will be asked of that clip."""

from __future__ import annotations

import argparse
from pathlib import Path

from dense_ctx.commands.arguments import MODEL_HELP, add_device_argument, add_settings, settings_of
from dense_ctx.commands.base import Command

PRESET = "lila-adapt"


class AdaptCommand(Command):
    """`dense-ctx adapt`."""

    help = "train a model further on your own clip, without labels, for a few minutes"
    stop_note = "the last saved state stays; the same command resumes"
    description = (
        f"The preset {PRESET}, with the model's own weights as the start (docs/lila.md, \"Adapt to a clip\"). The "
        "adapted model is DIR/model: a name for every other command."
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Describe the options."""
        parser.add_argument(
            "clips", nargs="+", type=Path, metavar="CLIP", help="video, folder of frames, or folder of either"
        )
        parser.add_argument("--model", default="lila-lite0", metavar="MODEL", help=f"%(default)s; {MODEL_HELP}")
        parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the run; its model is DIR/model")
        parser.add_argument("--steps", type=int, metavar="N", help="in place of the preset's")
        add_settings(parser, "changes to the preset: batch_size=2 optimizer.lr=1e-4")
        add_device_argument(parser)

    def run(self, args: argparse.Namespace) -> int:
        """Train; print the folder of the adapted model."""
        raise NotImplementedError
