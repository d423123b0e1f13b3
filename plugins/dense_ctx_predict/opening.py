"""Create the predictor of a command line: from examples, a saved predictor or a trained head; also in workers."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dense_ctx.commands.arguments import model_of
from dense_ctx.config import Part, Quantity
from dense_ctx.device import pick_device
from dense_ctx.errors import InputError
from dense_ctx.model_spec import open_model, parse_model

from . import labels, support
from .context_files import load_context, save_context
from .files import is_predictor
from .outputs import Writer
from .predictor import Colour, Predictor


def from_arguments(args: Namespace, pairs: Sequence[tuple[Path, Path]]) -> Predictor:
    """Create the predictor of `dense-ctx predict`.

    Args:
        pairs: (image, mask) paths of the annotated examples.

    Raises:
        InputError: examples were given for a model that needs none, or none for a model that needs them.
    """
    if not pairs and args.labels_in is None:
        return open_predictor(args.model, args.device, args.dtype)
    if is_predictor(args.model):
        raise InputError(
            f"{args.model} is a predictor that was already fitted to examples: leave --support out, or name its model "
            "as --model"
        )
    model = model_of(args)
    if model.model_config is not None and model.model_config.output is not None:
        raise InputError(f"{args.model} has a trained head, which needs no examples: leave --support out")
    read = args.rasters.example if args.rasters else Path
    if args.labels_in is not None:
        return labels.fit(model, args, read)
    return support.fit(
        model, pairs, args.part, task=args.task, scale=args.scale, ignore_index=args.ignored, names=args.names,
        max_memory=args.max_memory, read=read,
    )  # fmt: skip


def open_predictor(name: str, device: str = "auto", dtype: str = "float32") -> Predictor:
    """Open a saved predictor or a trained head by the notation of `dense_ctx.model_spec`.

    Raises:
        InputError: the model has features only. Others as `Predictor.from_pretrained`.
    """
    part = parse_model(name)
    if not isinstance(part, Part):
        raise InputError(
            f"{name} has features but no trained head: give annotated examples (`dense-ctx predict --support "
            "IMAGE:MASK --save DIR` makes a predictor), or name a trained head or a saved predictor"
        )
    where, kind = pick_device(device), getattr(torch, dtype)
    return Predictor.from_pretrained(part.name, **part.args, device=where, dtype=kind)


@dataclass(frozen=True)
class Recipe:
    """What a worker process needs to create the same writer; picklable, without tensors.

    context: folder of the fitted context; None: the model is a saved predictor or a trained head.
    options: of its probe, as they were typed: the folder may name no file.
    """

    model: str
    device: str
    dtype: str
    context: Path | None
    options: dict[str, Any]
    task: Quantity
    names: dict[int, str]
    colours: dict[int, Colour]
    writer: dict[str, Any]

    @classmethod
    def of(cls, args: Namespace, writer: Writer, folder: Path) -> Recipe:
        """The recipe of a writer; the fitted context is saved in `folder`."""
        predictor, context, typed = writer.predictor, None, {}
        if predictor.context is not None and not is_predictor(args.model):
            typed = dict(predictor.context.options)
            context = save_context(predictor.context, folder / "context")
        options = {
            "out": writer.out, "format": writer.format, "scale": writer.scale, "pictures": writer.pictures,
            "max_memory": writer.max_memory, "rasters": writer.rasters,
        }  # fmt: skip
        names = {item.id: item.name for item in predictor.classes}
        colours = {item.id: item.colour for item in predictor.classes}
        return cls(args.model, args.device, args.dtype, context, typed, predictor.task, names, colours, options)

    def open(self) -> Writer:
        """Create the writer."""
        if self.context is None:
            return Writer(open_predictor(self.model, self.device, self.dtype), **self.writer)
        model = open_model(self.model, pick_device(self.device), self.dtype)
        context = load_context(self.context, model, **self.options)
        return Writer(Predictor(context, self.task, self.names, self.colours), **self.writer)
