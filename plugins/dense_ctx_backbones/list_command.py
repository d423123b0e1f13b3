"""dense-ctx backbones: the backbones by licence, and one in detail."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from dense_ctx.commands.base import Command


class Backbones(Command):
    """`dense-ctx backbones`."""

    help = "list backbones with licences; NAME: its maps, values and parameters"
    description = (
        "Licences are those of the weights, as timm's cards state them; read the licence itself before you rely on it. "
        "NAME builds the network without weights and prints its maps."
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Describe the options."""
        parser.add_argument("name", nargs="?", metavar="NAME", help="one backbone, in detail")
        parser.add_argument(
            "--licence",
            "--license",
            metavar="LICENCE",
            help="permissive (Apache, MIT, BSD, CC BY), or a licence such as mit or cc-by-nc-4.0",
        )
        parser.add_argument(
            "--ungated", action="store_true", help="none whose authors ask for an agreement before a download"
        )
        parser.add_argument("--json", action="store_true", help="print JSON")

    def run(self, args: argparse.Namespace) -> int:
        """Print the table or the details."""
        from dense_ctx.errors import InputError

        from .catalogue import cards

        if args.name is not None:
            if args.licence is not None or args.ungated:
                raise InputError(
                    f"--licence and --ungated choose from the list; with the name {args.name} leave them out"
                )
            print(json.dumps(details(args.name), indent=2) if args.json else table(details(args.name)))
            return 0
        backbones = cards()
        names = sorted({card.licence for card in backbones if card.licence})
        if args.licence not in (None, "permissive", *names):
            raise InputError(f"No backbone has the licence {args.licence!r}: give permissive, {', '.join(names)}")
        selection = [
            card
            for card in backbones
            if (
                args.licence is None
                or card.licence == args.licence
                or (args.licence == "permissive" and card.permissive)
            )
            and not (args.ungated and card.gated)
        ]
        if args.json:
            print(json.dumps([asdict(card) for card in selection], indent=2))
            return 0
        width = max((len(card.name) for card in selection), default=0)
        network = max((len(card.network) for card in selection), default=0)
        for card in selection:
            size = "any" if card.size is None else str(card.size)
            gated = "  gated" if card.gated else ""
            print(f"{card.name:{width}}  {card.network:{network}}  {size:>4}  {card.licence or '-'}{gated}")
        print(f"\n{len(selection)} of {len(backbones)} backbones; `timm:NAME` and `hf:NAME` open others")
        return 0


def details(name: str) -> dict[str, object]:
    """What a backbone's maps are; the network is built on no memory, without weights."""
    import torch

    from dense_ctx.create import create_backbone, random_args

    with torch.device("meta"):
        backbone = create_backbone(name, **random_args(name))
    return {
        "name": name,
        "maps": [
            {"channels": dim, "stride": stride} for dim, stride in zip(backbone.dims, backbone.strides, strict=True)
        ],
        "image_size": list(backbone.image_size),
        "mean": list(backbone.mean),
        "std": list(backbone.std),
        "parameters": sum(parameter.numel() for parameter in backbone.parameters()),
        "blocks": len(backbone.blocks()),
    }


def table(values: dict[str, object]) -> str:
    """The details as lines."""
    return "\n".join(f"{key:12}{value}" for key, value in values.items())
