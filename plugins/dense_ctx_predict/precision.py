"""Options of the verbs that run a model on pictures of any size."""

from __future__ import annotations

import argparse


def add_precision_arguments(parser: argparse.ArgumentParser) -> None:
    """--dtype and --max-memory, of verbs that run the model on pictures of any size."""
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16", "float16"],
        default="float32",
        help="of the network (%(default)s), but for a backbone whose own argument dtype says another",
    )
    parser.add_argument(
        "--max-memory",
        metavar="SIZE",
        help='tile large images to stay under SIZE, such as "2GB"; refused where that changes the features, which '
        '"2GB approximate" accepts',
    )
