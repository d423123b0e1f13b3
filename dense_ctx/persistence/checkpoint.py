"""Model folders on disk: written atomically, read strictly.

    config.json         the parts to build (ModelConfig)
    model.safetensors   the decoder, and the backbone's trained tensors (all of them if standalone)
    manifest.json       sha256 of the two
    README.md           the model card, written once

A Hub repository is such a folder. Reading checks the digests and opens no pickle; saving is as for every artefact
(`dense_ctx.persistence.artefact`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..config import ModelConfig, Part
from ..errors import CheckpointError, ConfigError, UnknownNameError
from ..files import regular_size, state_digest, tensor_shapes, write_tensors, write_text
from ..interfaces import Backbone
from ..numerics import preserve_generators
from ..plugins import registry
from .artefact import Artefact, read_object
from .card import model_card, without_paths
from .links import is_whole, opened, refuse_own_link
from .tensors import misfits, nonfinite, read_state, refuse, require_state, specs, stored

if TYPE_CHECKING:
    from ..model import DenseModel

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
MODEL = Artefact("model", (CONFIG, WEIGHTS))
_UNFIT = "does not fit the model its config names"


def save(
    model: DenseModel,
    folder: str | os.PathLike[str],
    *,
    standalone: bool = False,
    metrics: Sequence[Mapping[str, Any]] = (),
    trained_with: Mapping[str, Any] | None = None,
    license: str = "other",
    dtype: torch.dtype | None = None,
) -> Path:
    """Write a model folder, atomically.

    Args:
        standalone: store the frozen backbone too, with the configurations of the models it is built on. Always done
            for a backbone without a source (random weights).
        metrics: rows for the card: name, value, and the command that measured it.
        trained_with: record of the training, for the card and config.json; of absolute paths the last name is stored.
        license: of the trained weights, for the card.
        dtype: to store floating-point tensors in, such as torch.float16 for half the size; default unchanged. They are
            loaded in the model's own type: a model that was cast to bfloat16 is opened in bfloat16.

    Raises:
        ConfigError: the model was built from modules, not names; it is built on the model in this folder; or its
            tensors have several floating-point types.
        CheckpointError: NaN or infinity in its tensors, or values beyond the range of `dtype`.
        FileError: the folder holds something that is not a model, another process is writing it, or it cannot be
            written.
    """
    folder = Path(folder).absolute()
    refuse_own_link(model, folder, standalone)
    config, tensors = _describe(model, standalone, trained_with, dtype)

    def fill(partial: Path) -> None:
        write_tensors(partial / WEIGHTS, tensors, {"format": "pt"})
        write_text(partial / CONFIG, json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n", sync=False)
        if not (partial / CARD).exists():
            write_text(partial / CARD, model_card(model, config, folder.name, metrics, license), sync=False)

    MODEL.write(folder, fill)
    return folder


def read(folder: Path, *, weights: bool = True, published: bool = False, allow: Sequence[str] = ()) -> DenseModel:
    """Build the model of a folder and load its tensors; errors as `dense_ctx.persistence.hub.load`.

    Nothing is allocated before the shapes that the configuration implies match the file's.

    Args:
        weights: False: random weights, only the configuration is read.
        published: the folder is from the Hub, so paths in it are invalid here.
        allow: further repositories that the user named.
    """
    where = str(folder / CONFIG)
    with opened(folder, published=published, allow=allow), preserve_generators():
        if not weights:
            return build(ModelConfig.from_dict(read_object(folder / CONFIG), where), where, random=True)

        def plan(part: Path) -> tuple[ModelConfig, Any]:
            config = ModelConfig.from_dict(read_object(part / CONFIG), where)
            try:
                with torch.device("meta"):
                    empty = build(config, where, random=True)
                    _check_plan(empty, config, part)
            except RecursionError:
                raise CheckpointError(f"{where}: parts within parts, too many to build") from None
            return config, specs(_stored(empty, config))

        (config, expected), tensors = MODEL.read(folder, plan, lambda part: read_state(part / WEIGHTS))
        require_state(tensors, expected, f"{folder / WEIGHTS} {_UNFIT}", cast=True)
        model = build(config, where, random=bool(config.backbone_tensors) and not config.backbone_digest)
        model.to(dtype=getattr(torch, config.dtype))
        _load_tensors(model, config, tensors, folder)
        model.decoder.fresh = False
    return model


def build(config: ModelConfig, where: str, *, random: bool) -> DenseModel:
    """Build the parts that a configuration names.

    Args:
        where: of the configuration, for errors.
        random: with random weights, reading and fetching none.

    Raises:
        CheckpointError: a part is not installed.
    """
    from ..create import random_args
    from ..model import DenseModel

    try:
        args = random_args(config.backbone.name) if random else {}
        model = DenseModel.from_parts(Part(config.backbone.name, {**config.backbone.args, **args}), config.decoder)
    except UnknownNameError as error:
        needed = ", ".join(f"{dist} {version}" for dist, version in config.plugins.items())
        raise CheckpointError(
            f"{where} needs a part that is not installed. It was saved with {needed}. {error}"
        ) from error
    model.model_config = config
    return model


def _describe(
    model: DenseModel, standalone: bool, trained_with: Mapping[str, Any] | None, dtype: torch.dtype | None
) -> tuple[ModelConfig, dict[str, Tensor]]:
    config = model.model_config
    if config is None:
        raise ConfigError(
            "This model was made of modules, so it cannot be built again from a file. Register the parts in a plugin "
            "then use AutoDenseModel.from_parts with their names (see CONTRIBUTING.md)"
        )
    whole = is_whole(model, standalone)
    args = model.backbone.stored_args(config.backbone.args, whole=whole)
    backbone = dict(model.backbone.state_dict())
    if whole:
        names, digest = list(backbone), ""
    else:
        learns = {key for key, value in model.backbone.named_parameters() if value.requires_grad}
        learns |= {*model.backbone.adapters()}
        names = [key for key in backbone if key in learns or key in config.backbone_tensors]
        digest = state_digest({key: value for key, value in backbone.items() if key not in set(names)})
    plugins = {}
    for kind, part in (("backbone", config.backbone), ("decoder", config.decoder)):
        owner = registry().get(kind, part.name)[0].owner
        plugins[owner.distribution] = owner.version
    saved = ModelConfig(
        backbone=replace(config.backbone, args=args),
        decoder=config.decoder,
        backbone_tensors=tuple(names),
        backbone_digest=digest,
        dtype=_dtype(model),
        plugins=plugins,
        output=config.output,
        trained_with=without_paths(dict(config.trained_with if trained_with is None else trained_with)),
    )
    tensors = _stored(model, saved)
    if dtype is not None:
        tensors = {key: value.to(dtype) if value.is_floating_point() else value for key, value in tensors.items()}
    if bad := nonfinite(tensors):
        raise CheckpointError(f"The model holds NaN or infinity, so it is not saved: {', '.join(bad[:4])}")
    return saved, stored(tensors)


def _dtype(model: DenseModel) -> Any:
    parts = model.named_modules()
    held = tuple(f"{name}." for name, part in parts if isinstance(part, Backbone) and part.weights_dtype)
    dtypes = {v.dtype for k, v in model.state_dict().items() if v.is_floating_point() and not k.startswith(held)}
    names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
    if len(dtypes) > 1:
        raise ConfigError(
            f"The model's tensors are of several floating-point types ({names}), of which it could get back only one: "
            "make them one first, model.float()"
        )
    return names or "float32"


def _stored(model: DenseModel, config: ModelConfig) -> dict[str, Tensor]:
    """The tensors that the model's folder holds, by their names there."""
    own = {f"decoder.{key}": value for key, value in model.decoder.state_dict().items()}
    backbone = model.backbone.state_dict()
    return own | {f"backbone.{key}": backbone[key] for key in config.backbone_tensors}


def _check_plan(plan: DenseModel, config: ModelConfig, folder: Path) -> None:
    """Compare a model on the meta device with the header of the folder's tensors."""
    try:
        shapes = {name: (None, shape) for name, shape in tensor_shapes(folder / WEIGHTS).items()}
    except ValueError as error:
        raise CheckpointError(f"{folder / WEIGHTS} is damaged: {error}") from error
    own = plan.backbone.state_dict()
    unknown = [key for key in config.backbone_tensors if key not in own]
    if unknown:
        raise CheckpointError(f"{folder / CONFIG}: the backbone has no tensors {', '.join(unknown[:4])[:300]}")
    refuse(misfits(shapes, specs(_stored(plan, config))), f"{folder / WEIGHTS} {_UNFIT}")
    outside = sum(value.numel() for key, value in own.items() if key not in set(config.backbone_tensors))
    whole = bool(config.backbone_tensors) and not config.backbone_digest
    if (whole or config.backbone.args) and outside > (most := 0 if whole else _own_size(config.backbone)):
        raise CheckpointError(
            f"{folder / CONFIG}: {config.backbone!s:.200} would have {outside:,} numbers that the folder does not "
            f"hold, and its home can give {most:,}"
        )


def _own_size(part: Part) -> int:
    """Upper bound of the values that a backbone's source provides: without arguments, or the bytes of its file."""
    weights = part.args.get("weights")
    if isinstance(weights, str) and os.path.isfile(weights):
        return regular_size(Path(weights))
    plain = build(ModelConfig(Part(part.name), Part("upsample")), part.name, random=True)
    return sum(value.numel() for value in plain.backbone.state_dict().values())


def _load_tensors(model: DenseModel, config: ModelConfig, tensors: Mapping[str, Tensor], folder: Path) -> None:
    if config.backbone_digest:
        ours = set(config.backbone_tensors)
        frozen = {key: value for key, value in model.backbone.state_dict().items() if key not in ours}
        if state_digest(frozen) != config.backbone_digest:
            raise CheckpointError(
                f"{folder} was trained on other weights of {config.backbone.name} than {model.backbone.source} gives: "
                "their digests differ. Use the same weights, or a model saved with standalone=True"
            )
    with torch.no_grad():
        for key, tensor in _stored(model, config).items():
            tensor.copy_(tensors[key])
