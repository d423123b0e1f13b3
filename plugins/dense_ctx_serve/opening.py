"""From the command line to a desk and a Label Studio."""

from __future__ import annotations

import math
from argparse import Namespace

import torch
from dense_ctx_predict import Predictor
from dense_ctx_predict.files import is_predictor

from dense_ctx.commands.arguments import refuse
from dense_ctx.config import Part, parse_part
from dense_ctx.device import pick_device
from dense_ctx.errors import InputError
from dense_ctx.model import DenseModel
from dense_ctx.model_spec import open_model, parse_model
from dense_ctx.plugins import registry

from .desk import Desk
from .folder import LabelFolder
from .studio import Studio
from .studio_api import StudioApi


def desk_of_arguments(args: Namespace) -> Desk:
    """The desk of `dense-ctx serve`.

    Raises:
        InputError: an option without effect, or a model that predicts no classes.
    """
    part = parse_part(args.method)
    registry().bind("probe", part.name, **part.args)  # an unknown name or option fails here
    model, head = _opened(args)
    if head is not None:
        refuse(args, ["labels_in", "method"], "with a model that predicts by itself")
    folder = None
    if args.labels_in is not None:
        folder = LabelFolder(args.labels_in, parse_part(args.labels_from), args.images or args.labels_in)
    return Desk(model, head, part, args.max_memory, folder)


def _opened(args: Namespace) -> tuple[DenseModel, Predictor | None]:
    """The model whose features are read, and the predictor that it is, if it is one."""
    part = parse_model(args.model)
    where = pick_device(args.device)
    if is_predictor(args.model) and isinstance(part, Part):
        predictor = Predictor.from_pretrained(part.name, **part.args, device=where, dtype=torch.float32)
        return predictor.model, predictor
    model = open_model(args.model, where)
    if model.model_config is not None and model.model_config.output is not None:
        return model, Predictor(model)
    return model, None


def studio_of_arguments(args: Namespace, desk: Desk, key: str | None) -> Studio | None:
    """The Label Studio that the command line names. key: of the environment."""
    if args.label_studio is None:
        return None
    if not (math.isfinite(args.seconds) and args.seconds > 0):
        raise InputError(f"--seconds {args.seconds:g} is not above 0")
    api = StudioApi(args.label_studio, args.label_studio_token or key)
    return Studio(desk, api, args.images, args.unlabelled, args.seconds)
