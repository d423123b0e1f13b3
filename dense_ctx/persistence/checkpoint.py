"""Model folders on disk: written atomically, read strictly.

    config.json         what to build (ModelConfig)
    model.safetensors   what was trained: the decoder, and the backbone's unfrozen tensors (all of them if standalone)
    manifest.json       sha256 of the two
    README.md           the model card, written once

A folder is a Hub repository. Reading checks the digests and never opens a pickle. Saving swaps whole folders: a killed
run leaves the old model or the new one.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from ..config import ModelConfig, Part
from ..errors import CheckpointError, ConfigError, FileError, UnknownNameError
from ..files import (
    MAX_TEXT,
    file_digest,
    read_json,
    read_tensors,
    regular_size,
    state_digest,
    tensor_shapes,
    write_tensors,
)
from ..plugins import registry
from .card import model_card
from .links import is_whole, opened, refuse_own_link

if TYPE_CHECKING:
    from ..model import DenseModel

CONFIG, WEIGHTS, MANIFEST, CARD = "config.json", "model.safetensors", "manifest.json", "README.md"


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
    """Write a model folder, whole or not at all.

    Args:
        standalone: store the frozen backbone too, with the configurations of the models it is built from. Always so
            for one without a home of its own (random weights).
        metrics: rows for the card: name, value, and the command that measured it.
        trained_with: what the card and config.json say of the training.
        license: of the trained weights, for the card.
        dtype: to store floating-point tensors in, such as torch.float16 for half the size; default as they are. They
            are loaded in the model's own.

    Raises:
        ConfigError: the model was made of modules, not names; or it is built on the very model in the folder.
        CheckpointError: NaN or infinity in its tensors, or out of the range of `dtype`.
        FileError: the folder holds something that is not a model, or cannot be written.
    """
    folder = Path(folder).absolute()
    refuse_own_link(model, folder, standalone)
    config, tensors = _describe(model, standalone, trained_with, dtype)
    recover(folder)
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / CONFIG).exists())):
        raise FileError(f"{folder} exists and is not a model folder; choose another or remove it")
    partial, previous = _beside(folder, "partial"), _beside(folder, "previous")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        if folder.exists():  # a person's own files stay, the card among them
            for item in folder.iterdir():
                if item.name not in (CONFIG, WEIGHTS, MANIFEST):
                    (shutil.copytree if item.is_dir() else shutil.copy2)(item, partial / item.name)
        write_tensors(partial / WEIGHTS, tensors, {"format": "pt"})
        _write(partial / CONFIG, json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n")
        digests = {name: file_digest(partial / name) for name in (CONFIG, WEIGHTS)}
        _write(partial / MANIFEST, json.dumps({"sha256": digests}, indent=2) + "\n")
        if not (partial / CARD).exists():
            _write(partial / CARD, model_card(model, config, folder.name, metrics, license))
        for name in (WEIGHTS, CONFIG, MANIFEST, CARD):
            _sync(partial / name)
        if folder.exists():
            shutil.rmtree(previous, ignore_errors=True)
            folder.replace(previous)
        partial.replace(folder)
        shutil.rmtree(previous, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        recover(folder)
        raise FileError(f"Cannot save the model to {folder}: {error}. What was there is unchanged") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def read(folder: Path, *, weights: bool = True, published: bool = False, allow: Sequence[str] = ()) -> DenseModel:
    """Build the model of a folder and load its tensors; errors as `dense_ctx.persistence.hub.load`.

    Nothing is allocated before the sizes that the configuration gives are those of the file.

    Args:
        weights: False: random ones, nothing but the configuration is read.
        published: the folder came from the Hub, so paths in it mean nothing here.
        allow: repositories that its user named beside its own.
    """
    with opened(folder, published=published, allow=allow):
        where = str(folder / CONFIG)
        config = ModelConfig.from_dict(_read_json(folder, CONFIG), where)
        if not weights:
            return build(config, where, random=True)
        _check_digests(folder, CONFIG)
        with torch.device("meta"):
            try:
                plan = build(config, where, random=True)
                _check_plan(plan, config, folder)
            except RecursionError:
                raise CheckpointError(f"{where}: parts within parts, too many to build") from None
        _check_digests(folder, WEIGHTS)
        tensors = _read_tensors(plan, config, folder)
        model = build(config, where, random=bool(config.backbone_tensors) and not config.backbone_digest)
        _load_tensors(model, config, folder, tensors)
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
    from ..model import DenseModel, random_args

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
    backbone, whole = dict(model.backbone.state_dict()), is_whole(model, standalone)
    if whole:
        stored, digest = list(backbone), ""
    else:
        learns = {key for key, value in model.backbone.named_parameters() if value.requires_grad}
        stored = [key for key in backbone if key in learns or key in config.backbone_tensors]
        digest = state_digest({key: value for key, value in backbone.items() if key not in set(stored)})
    plugins = {}
    for kind, part in (("backbone", config.backbone), ("decoder", config.decoder)):
        owner = registry().get(kind, part.name)[0].owner
        plugins[owner.distribution] = owner.version
    saved = ModelConfig(
        backbone=replace(config.backbone, args=model.backbone.stored_args(config.backbone.args, whole=whole)),
        decoder=config.decoder,
        backbone_tensors=tuple(stored),
        backbone_digest=digest,
        plugins=plugins,
        trained_with=trained_with if trained_with is not None else config.trained_with,
    )
    tensors = {f"decoder.{key}": value for key, value in model.decoder.state_dict().items()}
    tensors |= {f"backbone.{key}": backbone[key] for key in stored}
    if dtype is not None:
        tensors = {key: value.to(dtype) if value.is_floating_point() else value for key, value in tensors.items()}
    bad = [key for key, value in tensors.items() if value.is_floating_point() and not bool(value.isfinite().all())]
    if bad:
        raise CheckpointError(f"The model holds NaN or infinity, so it is not saved: {', '.join(bad[:4])}")
    return saved, {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    path = folder / WEIGHTS
    if not path.exists():
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pth", ".pt", ".pkl", ".ckpt"))
        hint = f" ({', '.join(pickles)[:300]} is there, but pickles are never opened)" if pickles else ""
        raise FileError(f"{folder} has no {WEIGHTS}{hint}")
    try:
        return tensor_shapes(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error


def _stored(model: DenseModel, config: ModelConfig) -> dict[str, Tensor]:
    """The model's tensors that its folder holds, by their names there."""
    own = {f"decoder.{key}": value for key, value in model.decoder.state_dict().items()}
    backbone = model.backbone.state_dict()
    return own | {f"backbone.{key}": backbone[key] for key in config.backbone_tensors}


def _check_plan(plan: DenseModel, config: ModelConfig, folder: Path) -> None:
    """Compare a model without memory with the header of the folder's tensors."""
    shapes, own = _shapes(folder), plan.backbone.state_dict()
    unknown = [key for key in config.backbone_tensors if key not in own]
    if unknown:
        raise CheckpointError(f"{folder / CONFIG}: the backbone has no tensors {', '.join(unknown[:4])[:300]}")
    wanted = {key: tuple(value.shape) for key, value in _stored(plan, config).items()}
    faults = [f"missing {key}" for key in sorted(set(wanted) - set(shapes))]
    faults += [f"left over {key}" for key in sorted(set(shapes) - set(wanted))]
    faults += [
        f"{key} is {list(shapes[key])}, not {list(shape)}"
        for key, shape in sorted(wanted.items())
        if shapes.get(key, shape) != shape
    ]
    _refuse(faults, folder)
    outside = sum(value.numel() for key, value in own.items() if key not in set(config.backbone_tensors))
    whole = bool(config.backbone_tensors) and not config.backbone_digest
    if (whole or config.backbone.args) and outside > (most := 0 if whole else _own_size(config.backbone)):
        raise CheckpointError(
            f"{folder / CONFIG}: {config.backbone!s:.200} would have {outside:,} numbers that the folder does not "
            f"hold, and its home can give {most:,}"
        )


def _own_size(part: Part) -> int:
    """Numbers that a backbone's home can give it: as many as without arguments, or as a file of weights has bytes."""
    weights = part.args.get("weights")
    if isinstance(weights, str) and os.path.isfile(weights):
        return regular_size(Path(weights))
    plain = build(ModelConfig(Part(part.name), Part("upsample")), part.name, random=True)
    return sum(value.numel() for value in plain.backbone.state_dict().values())


def _refuse(faults: list[str], folder: Path) -> None:
    if faults:
        more = f" and {len(faults) - 6} more" if len(faults) > 6 else ""
        shown = "; ".join(fault[:200] for fault in faults[:6])
        raise CheckpointError(f"{folder / WEIGHTS} does not fit the model its config names: {shown}{more}")


def _read_tensors(plan: DenseModel, config: ModelConfig, folder: Path) -> dict[str, Tensor]:
    try:
        tensors = read_tensors(folder / WEIGHTS)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / WEIGHTS} is damaged: {error}") from error
    faults = []
    for key, wanted in sorted(_stored(plan, config).items()):
        if (given := tensors[key]).is_floating_point() != wanted.is_floating_point():
            faults.append(f"{key} is {given.dtype}, not {wanted.dtype}")
        elif given.is_floating_point() and not bool(given.isfinite().all()):
            faults.append(f"{key} holds NaN or infinity")
    _refuse(faults, folder)
    return tensors


def _load_tensors(model: DenseModel, config: ModelConfig, folder: Path, tensors: Mapping[str, Tensor]) -> None:
    if config.backbone_digest:
        stored = set(config.backbone_tensors)
        frozen = {key: value for key, value in model.backbone.state_dict().items() if key not in stored}
        if state_digest(frozen) != config.backbone_digest:
            raise CheckpointError(
                f"{folder} was trained on other weights of {config.backbone.name} than {model.backbone.source} gives: "
                "their digests differ. Use the same weights, or a model saved with standalone=True"
            )
    with torch.no_grad():
        for key, wanted in _stored(model, config).items():
            wanted.copy_(tensors[key])


def _check_digests(folder: Path, *names: str) -> None:
    listed = _read_json(folder, MANIFEST).get("sha256")
    if not isinstance(listed, Mapping) or set(listed) != {CONFIG, WEIGHTS}:
        raise CheckpointError(f"{folder / MANIFEST} does not list {CONFIG} and {WEIGHTS}, and nothing else")
    for name in names:
        if not (folder / name).exists():
            raise FileError(f"{folder} has no {name}, which its manifest lists")
        if file_digest(folder / name) != listed[name]:
            raise CheckpointError(f"{folder / name} is damaged: its sha256 is not the one in {MANIFEST}. Get it again")


def _read_json(folder: Path, name: str) -> Mapping[str, Any]:
    path = folder / name
    if not path.exists():
        inner = folder / "model"
        hint = f" {inner} is one" if (inner / CONFIG).exists() else ""
        raise FileError(f"{folder} has no {name}: is it a dense_ctx model folder?{hint}")
    try:
        data = read_json(path, MAX_TEXT)
    except FileError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    if not isinstance(data, Mapping):
        raise CheckpointError(f"{path} holds a {type(data).__name__}, not an object")
    return data


def _beside(folder: Path, role: str) -> Path:
    return folder.with_name(f".{folder.name}.{role}")


def recover(folder: Path) -> None:
    """A save killed between its two renames left the old model under its second name: put it back."""
    previous = _beside(folder, "previous") if folder.name else folder
    if not folder.exists() and previous.is_dir():
        previous.replace(folder)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
