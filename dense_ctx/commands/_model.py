"""Arguments and loading that several verbs share."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import InputError

if TYPE_CHECKING:
    from ..model import DenseModel

T = TypeVar("T")

_PAIR = re.compile(r"((?:[A-Za-z]:[\\/])?[^:]+):((?:[A-Za-z]:[\\/])?[^:]+)")  # C:\a.png:C:\b.png splits too


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """--model, or --backbone and --decoder; --device and --dtype."""
    group = parser.add_argument_group("model")
    group.add_argument("--model", metavar="NAME", help="a published model: short name, Hub repository or folder")
    group.add_argument(
        "--backbone",
        metavar="NAME",
        default="efficientnet-lite0",
        help="without --model: backbone (%(default)s)",
    )
    group.add_argument("--decoder", metavar="NAME", default="upsample", help="without --model: decoder (%(default)s)")
    group.add_argument("--weights", metavar="PATH", help="without --model: local weights of the backbone")
    group.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps, or auto (the default)")
    group.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    group.add_argument("--max-memory", metavar="SIZE", help='tile large images to stay under SIZE, such as "2GB"')


def open_model(args: argparse.Namespace) -> DenseModel:
    """The model the arguments name, on its device."""
    import torch

    from ..model import AutoDenseModel

    device = args.device
    if device == "auto":
        mps = getattr(torch.backends, "mps", None)
        device = "cuda" if torch.cuda.is_available() else "mps" if mps and mps.is_available() else "cpu"
    if args.model:
        return AutoDenseModel.from_pretrained(args.model, device=device, dtype=getattr(torch, args.dtype))
    weights: dict[str, Any] = {"weights": args.weights} if args.weights else {}
    model = AutoDenseModel.from_parts(args.backbone, args.decoder, backbone_args=weights)
    try:
        return model.to(device=device, dtype=getattr(torch, args.dtype)).eval()
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {args.device}: {error}") from None


def progress(items: Iterable[T], total: int | None, what: str) -> Iterable[T]:
    """A progress bar on stderr; silent where stderr is not a terminal for long lists of one."""
    from tqdm import tqdm

    return tqdm(items, total=total or None, desc=what, unit="frame" if what == "frames" else "image")


def split_pair(text: str) -> tuple[Path, Path]:
    """IMAGE:MASK as two paths."""
    match = _PAIR.fullmatch(text)
    if match is None:
        raise InputError(f"--support {text!r} is not IMAGE:MASK, two paths with a colon between")
    return Path(match[1]), Path(match[2])


def unique_stem(path: Path, taken: set[str]) -> str:
    """A name for the outputs of `path`: its stem, numbered when two inputs share it."""
    stem, count = path.stem, 1
    while stem in taken:
        count += 1
        stem = f"{path.stem}-{count}"
    taken.add(stem)
    return stem
