"""dense-ctx adapt: train a model further on the clip that it will be used on, without labels."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from dense_ctx_training.command import Train

from dense_ctx.commands.arguments import add_device_argument, add_settings, settings_of

PRESET = "lila-adapt"


class AdaptCommand(Train):
    """`dense-ctx adapt`: `dense-ctx train lila-adapt`, with the clip, the model and the folder as arguments."""

    help = "train a model further on your own clip, without labels, for a minute or two"
    description = (
        f'`dense-ctx train {PRESET}` with the model\'s own weights as the start; docs/lila.md, "Adapt to a clip". '
        "DIR/model is the adapted model, which every other command opens."
    )
    epilog = "Stopped? The same command resumes. Killed, it begins again: no state is saved on the way."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Describe the options."""
        parser.add_argument(
            "clips", nargs="+", type=Path, metavar="CLIP", help="video, folder of frames, or folder of either"
        )
        parser.add_argument(
            "--model", required=True, metavar="MODEL", help="a trained one: NAME (lila-lite0), folder or OWNER/NAME"
        )
        parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="of the run")
        parser.add_argument("--steps", type=int, metavar="N", help="in place of the preset's")
        add_settings(parser, f"changes to {PRESET}: batch_size=4 optimizer.lr=1e-4")
        add_device_argument(parser)

    def run(self, args: argparse.Namespace) -> int:
        """Train; 128 + the signal's number when stopped by one."""
        from dense_ctx.config import Parts
        from dense_ctx.errors import ConfigError, InputError
        from dense_ctx.model_spec import parse_model

        own = {"model": args.model, "data": [str(clip) for clip in args.clips], "out": str(args.out)}
        own |= {} if args.steps is None else {"steps": args.steps}
        settings = settings_of(args)
        for setting in settings:
            if (key := setting.partition("=")[0].strip()) in ("model", "data", "out", "steps"):
                raise InputError(f"{setting!r}: give {'CLIP' if key == 'data' else f'--{key}'} in its place")
        if isinstance(parse_model(args.model), Parts):
            raise ConfigError(
                f"--model {args.model} has an untrained decoder, and there is nothing to adapt: give a trained model, "
                "such as lila-lite0 or the folder of one, or train it first (dense-ctx train lila-lite0 data=CLIPS)"
            )
        words = [f"{key}={json.dumps(value)}" for key, value in own.items()]
        return super().run(
            argparse.Namespace(
                config=PRESET, settings=[*settings, *words], list=False, dry_run=False, device=args.device, spelling={}
            )
        )
