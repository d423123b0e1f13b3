"""dense-ctx convert: convert an author's checkpoint to a model folder."""

from __future__ import annotations

import argparse
import pydoc
from pathlib import Path
from typing import Any

from dense_ctx.commands.arguments import add_settings, settings_of
from dense_ctx.commands.base import Command


class Convert(Command):
    """`dense-ctx convert`."""

    help = "make a model folder of an author's checkpoint"
    description = (
        "The folder holds the whole model: it opens by AutoDenseModel.from_pretrained(DIR) and stands wherever a MODEL "
        "does. `dense-ctx plugins converter` lists the formats."
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Describe the options."""
        parser.add_argument("format", metavar="FORMAT", help="dip, flowfeat, or another of `plugins converter`")
        parser.add_argument("file", type=Path, metavar="FILE", help="the checkpoint; only tensors of it are opened")
        parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the model folder, new")
        parser.add_argument(
            "--allow",
            action="append",
            default=[],
            metavar="MODULE.CLASS",
            help="a class of plain data that you trust the file to hold beside tensors, such as argparse.Namespace or "
            "pathlib.PosixPath; classes that could run code are refused",
        )
        add_settings(
            parser,
            "of the format: backbone='NAME(key=value, ...)' in place of the one that the tensors' shapes tell",
        )

    def run(self, args: argparse.Namespace) -> int:
        """Convert and save."""
        import torch

        from dense_ctx.config import override
        from dense_ctx.errors import FileError, InputError
        from dense_ctx.persistence.plain_data import DATA_CLASSES
        from dense_ctx.plugins import registry

        if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
            raise FileError(f"{args.out} exists and is not empty: choose another --out")
        settings = override({}, *settings_of(args))
        allowed: list[Any] = []  # under the file's names: numpy's are others since its version 2
        for name in args.allow:
            # by name, before anything is imported: what is not on the list runs code
            entry = pydoc.locate(name) if DATA_CLASSES.fullmatch(name) else None
            if entry is None:
                raise InputError(
                    f"--allow {name}: not a class of plain data; expected MODULE.CLASS such as argparse.Namespace, "
                    "pathlib.PosixPath or numpy._core.multiarray.scalar. A file that needs another runs code: do not "
                    "open it"
                )
            allowed.append((entry, name))
        with torch.serialization.safe_globals(allowed):
            model = registry().create("converter", args.format, path=args.file, **settings)
        model.save_pretrained(args.out)
        config = model.model_config
        print(f"{args.out}: {config.backbone}+{config.decoder}")
        if unused := config.trained_with["unused"]:
            print(f"No feature depends on {len(unused)} tensors of the checkpoint: {', '.join(unused)}")
        return 0
