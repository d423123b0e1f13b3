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


def pick_device(name: str) -> str:
    """`name`, or the best there is for "auto"; of several processes each takes its own accelerator."""
    import os

    import torch

    if name != "auto":
        return name
    if torch.cuda.is_available():
        return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"
    mps = getattr(torch.backends, "mps", None)
    return "mps" if mps and mps.is_available() else "cpu"


def model_from_spec(spec: str, device: str = "auto") -> DenseModel:
    """The model of one word: a published one, or BACKBONE+DECODER with arguments in brackets.

    "lila-b14", "owner/name", "runs/mine", "dinov2-s14+upsample", "efficientnet-lite0+upsample(layers=[-1])".

    Raises:
        InputError: brackets that do not close, or values that are not YAML.
    """
    from ..model import AutoDenseModel

    where = pick_device(device)
    if "+" not in spec or Path(spec).exists():
        return AutoDenseModel.from_pretrained(spec, device=where)
    parts = [_part(text.strip(), spec) for text in spec.split("+", 1)]
    model = AutoDenseModel.from_parts(parts[0][0], parts[1][0], backbone_args=parts[0][1], decoder_args=parts[1][1])
    try:
        return model.to(where).eval()
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {device}: {error}") from None


def _part(text: str, spec: str) -> tuple[str, dict[str, Any]]:
    import yaml

    match = re.fullmatch(r"([^()]+)(?:\((.*)\))?", text)
    if match is None:
        raise InputError(f"{spec!r} is not BACKBONE+DECODER, each a name or NAME(key=value, ...)")
    try:
        # key=value, ... as a YAML flow mapping: commas inside brackets stay where they are
        pairs = re.sub(r"(^|,)\s*(\w+)\s*=", r"\1 \2: ", match[2] or "")
        args = yaml.safe_load("{" + pairs + "}")
    except yaml.YAMLError as error:
        from ..config import yaml_problem

        raise InputError(f"{spec!r}: the arguments of {match[1]} are not key=value: {yaml_problem(error)}") from None
    return match[1], args


def bar(items: Iterable[T], total: int, what: str) -> Iterable[T]:
    """A progress bar on stderr."""
    from tqdm import tqdm

    return tqdm(items, total=total, desc=what)


def open_model(args: argparse.Namespace) -> DenseModel:
    """The model the arguments name, on its device."""
    import torch

    from ..model import AutoDenseModel

    device = pick_device(args.device)
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
