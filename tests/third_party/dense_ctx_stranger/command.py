"""A verb: dense-ctx stranger-hello NAME."""

import argparse

from dense_ctx.commands.base import Command
from dense_ctx.errors import InputError


class Hello(Command):
    """Greet; an error of dense_ctx.errors becomes one line and status 2."""

    help = "greet somebody from the stranger"
    description = "Greets somebody with a registered greeting."
    epilog = "Example: dense-ctx stranger-hello Ada --greeting loud"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """NAME and --greeting."""
        parser.add_argument("name", metavar="NAME")
        parser.add_argument("--greeting", default="plain", metavar="NAME", help="a registered greeting (%(default)s)")

    def run(self, args: argparse.Namespace) -> int:
        """Print the greeting; status 3 says that nobody was greeted."""
        from dense_ctx import registry

        if args.name.isdigit():
            raise InputError(f"{args.name} is a number; expected a name")
        print(registry().create("greeting", args.greeting).words(args.name))
        return 3 if args.name == "nobody" else 0
