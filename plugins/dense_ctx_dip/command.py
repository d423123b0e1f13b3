"""dense-ctx pseudo-label: create in-context tasks for DIP from unlabelled images."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from dense_ctx.commands.arguments import add_model_argument, add_settings, model_of, progress, refuse, settings_of
from dense_ctx.commands.base import Command


class PseudoLabel(Command):
    """`dense-ctx pseudo-label`."""

    help = "make in-context tasks (pseudo-labels, positive pairs) from unlabelled images"
    stop_note = "finished files are in {out}; the same command resumes"
    description = (
        "Stages: segment, embed, cluster, vote, pair. Finished files are kept: run it again after an "
        "interruption. Under `accelerate launch -m dense_ctx.cli pseudo-label ...` the images are shared out."
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Describe the options."""
        parser.add_argument("images", type=Path, metavar="IMAGES", help="folder of images, with its subfolders")
        parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the tasks; training reads them")
        add_model_argument(parser)
        parser.add_argument(
            "--segmenter",
            default="ncut",
            metavar="NAME",
            help="NAME or 'NAME(key=value, ...)' of `dense-ctx plugins segmenter` (%(default)s)",
        )
        parser.add_argument(
            "--config",
            metavar="PRESET",
            help="a preset such as dip-tasks-b14, or a YAML file: model, segmenter, all settings; KEY=VALUE changes it",
        )
        add_settings(
            parser,
            "how tasks are made: side=448 (short side of the images, pixels), classes=1000 (pseudo-classes), "
            "subset=200000 (images that k-means sees, at most), iterations=20 and seed=0 (of k-means), kmeans=auto "
            "(torch, faiss, or faiss if large), neighbours=5 (nearest images tried as positives), shared=0.05 (least "
            "share of a common class)",
        )

    def run(self, args: argparse.Namespace) -> int:
        """Run the stages that are not finished."""
        from dense_ctx.config import override, parse_part, typed
        from dense_ctx.device import processes
        from dense_ctx.errors import ConfigError

        from .task_preset import task_preset
        from .task_settings import TaskSettings, find_images
        from .tasks import make_tasks

        if args.config is not None:
            refuse(
                args,
                ["model", "segmenter"],
                "with --config, which says it; model.backbone.args.weights=PATH changes it",
            )
            parts, settings = task_preset(args.config, settings_of(args))
            args.model = str(parts)
        else:
            values = override({}, *settings_of(args))
            if "segmenter" in values:
                raise ConfigError("segmenter=... is written --segmenter 'NAME(key=value, ...)'")
            settings = typed(TaskSettings, {**values, "segmenter": parse_part(args.segmenter)}, "pseudo-label")
        find_images(args.images)  # before weights are fetched and opened
        rank, _ = processes()
        folder = make_tasks(args.images, args.out, model_of(args), settings, args.model, partial(progress, row=rank))
        if rank == 0:
            print(f"{folder / 'pairs.jsonl'} and labels; look at {folder / 'report' / 'index.html'}")
        return 0
