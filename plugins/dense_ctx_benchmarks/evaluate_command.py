"""dense-ctx evaluate: models under protocols."""

from __future__ import annotations

import argparse
from pathlib import Path

from dense_ctx.commands.arguments import add_model_argument, add_settings, progress, refuse, settings_of
from dense_ctx.commands.base import Command


class Evaluate(Command):
    """`dense-ctx evaluate`."""

    help = "measure models under named protocols, with a result file each"
    stop_note = "finished clips and shards of images are in {out}; the same command resumes"
    epilog = (
        "Killed? The same command resumes. Several processes: torchrun --nproc-per-node 2 "
        "-m dense_ctx.cli evaluate ..., or accelerate launch on several GPUs"
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Describe the options."""
        add_model_argument(parser, positional=True)
        add_settings(parser, "changes to the protocol: grid=8 probe.args.lr=1e-3")
        parser.add_argument(
            "--models", nargs="+", metavar="MODEL", help="several models in place of MODEL, compared at the end"
        )
        parser.add_argument(
            "--protocol", "--protocols", nargs="+", metavar="ID", help="shipped protocols, or YAML files"
        )
        parser.add_argument("--data", type=Path, metavar="ROOT", help="root of the protocol's data set")
        parser.add_argument("--out", type=Path, default=Path("dense-ctx-evaluation"), help="folder (%(default)s)")
        parser.add_argument(
            "--seeds", nargs="+", type=int, default=[0], metavar="N", help="one probe each (0); reported as mean ± std"
        )
        parser.add_argument("--limit", type=int, metavar="N", help="first N clips, or images of each split")
        parser.add_argument(
            "--cache", default="2GB", metavar="SIZE", help="keep training features in memory (2GB), or 0"
        )
        parser.add_argument(
            "--share", default="10GB", metavar="SIZE",
            help="disk for feature maps that several models or protocols read (10GB), or 0: each computes its own",
        )  # fmt: skip
        parser.add_argument("--keep-predictions", action="store_true", help="write predictions as PNG or .npy")
        parser.add_argument("--list", action="store_true", help="list the protocols; with --protocol, show them")

    def run(self, args: argparse.Namespace) -> int:
        """Evaluate, print the headline and where the result is."""
        from dense_ctx.errors import InputError
        from dense_ctx.evaluate.protocol import load_protocol

        if args.list:
            of_run = [
                "model",
                "models",
                "data",
                "out",
                "seeds",
                "limit",
                "cache",
                "share",
                "keep_predictions",
                "device",
            ]
            refuse(args, of_run if args.protocol else [*of_run, "settings"], "with --list")
            return _list(args.protocol or [], settings_of(args))
        if not args.protocol or args.data is None:
            raise InputError("evaluate needs --protocol and --data; --list shows the protocols")
        from dense_ctx.evaluate.job import make_probe
        from dense_ctx.evaluate.run import open_sets
        from dense_ctx.model_spec import open_model

        from .grid import Grid, places
        from .trained_heads import scored_by_head

        settings = settings_of(args)
        if args.models:
            refuse(args, ["model"], "beside --models")
        specs = args.models or [args.model]
        if len(specs) == len(args.protocol) == 1:
            refuse(args, ["share"], "with one model and one protocol")
        protocols = [load_protocol(name, settings) for name in args.protocol]  # fail before the models load
        folders = places(args.out, specs, [protocol.id for protocol in protocols])
        for protocol in protocols:
            make_probe(protocol, 0)
            open_sets(protocol, args.data, args.seeds)
        grid = Grid({spec: open_model(spec, args.device) for spec in specs}, args.out, args.share)
        own_probe = any(word.startswith("probe") for word in settings)
        for spec, model in grid.models.items():
            for protocol in protocols:
                grid.run(
                    spec,
                    protocol if own_probe else scored_by_head(model, protocol),
                    args.data,
                    folders[spec, protocol.id],
                    several=len(protocols) > 1,
                    seeds=args.seeds,
                    limit=args.limit,
                    cache=0 if args.cache == "0" else args.cache,
                    keep=args.keep_predictions,
                    progress=progress,
                )
        grid.finish()
        return 0


def _list(names: list[str], settings: list[str]) -> int:
    """Print the named protocols in full, or a line for each registered one; 1 where one of those cannot be read."""
    import json

    from dense_ctx.errors import DenseCtxError
    from dense_ctx.evaluate.protocol import load_protocol
    from dense_ctx.evaluate.protocol import names as registered

    if names:
        for name in names:
            print(json.dumps(load_protocol(name, settings).to_dict(), indent=1))
        return 0
    status, width = 0, max(map(len, registered()), default=0)
    for name in registered():
        try:
            protocol = load_protocol(name)
            line = f"{protocol.title}; {protocol.metric}; data: {protocol.data.name}"
        except DenseCtxError as error:  # a plugin's; the others are listed nevertheless
            status, line = 1, f"cannot be read: {error}"
        print(f"{name:<{width}}  {line}")
    return status
