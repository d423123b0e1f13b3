"""Save and load predictors, on disk and on the Hub.

A trained head is a model folder whose config.json has an output. A predictor fitted to examples is a folder of

    predictor.json   task, classes, names and colours
    config.json      "model_type" and names of the classes, for dense_ctx_transformers alone
    context/         the fitted probe
    model/           the feature model
    manifest.json    sha256 of predictor.json and of the manifests of the two folders
    README.md        the model card; an existing one is kept
"""

from __future__ import annotations

import os
import types
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from dense_ctx.config import ModelConfig, Part, Quantity, typed
from dense_ctx.errors import ConfigError, InputError
from dense_ctx.files import json_digest, state_digest, write_json, write_text
from dense_ctx.model_spec import parse_model
from dense_ctx.persistence import checkpoint, hub
from dense_ctx.persistence.artefact import MANIFEST, Artefact, read_object
from dense_ctx.plugins import blamed

from .card import predictor_card
from .context_files import CONTEXT, load_context, save_context
from .predictor import LabelClass, Predictor

P = TypeVar("P", bound=Predictor)

FACTS, CONTEXT_FOLDER, MODEL_FOLDER = "predictor.json", "context", "model"
PREDICTOR = Artefact("predictor", (FACTS, f"{CONTEXT_FOLDER}/{MANIFEST}", f"{MODEL_FOLDER}/{MANIFEST}"))
FILES = (
    *checkpoint.MODEL.files, MANIFEST, *PREDICTOR.files,
    *(f"{CONTEXT_FOLDER}/{name}" for name in CONTEXT.files),
    *(f"{MODEL_FOLDER}/{name}" for name in checkpoint.MODEL.files),
)  # fmt: skip
FORMAT_VERSION = 1


@dataclass(frozen=True)
class _Facts:
    """predictor.json. classes: in the order of the score channels."""

    format_version: int
    task: Quantity
    classes: tuple[LabelClass, ...]

    def __post_init__(self) -> None:
        if self.format_version != FORMAT_VERSION:
            raise ConfigError(f"format_version is {self.format_version!r:.40}; this dense_ctx reads {FORMAT_VERSION}")


def save(predictor: Predictor, folder: Path, options: Mapping[str, Any]) -> Path:
    """`Predictor.save`."""
    context = predictor.context
    if context is None:
        return predictor.model.save_pretrained(folder, **options)
    facts = _Facts(FORMAT_VERSION, predictor.task, predictor.classes)

    def fill(partial: Path) -> None:
        predictor.model.save_pretrained(partial / MODEL_FOLDER, **options)
        save_context(context, partial / CONTEXT_FOLDER)
        write_json(partial / FACTS, asdict(facts))
        names = {str(channel): item.name for channel, item in enumerate(predictor.classes)}
        write_json(partial / checkpoint.CONFIG, {"model_type": ModelConfig.model_type, "id2label": names})
        if not (partial / checkpoint.CARD).exists():
            card = predictor_card(predictor, folder.name, str(options.get("license", "other")))
            write_text(partial / checkpoint.CARD, card)

    PREDICTOR.write(folder.absolute(), fill)
    return folder


def open_predictor(
    cls: type[P],
    name: str | os.PathLike[str],
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
    allow: Sequence[str] = (),
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    probe: Mapping[str, Any] | None = None,
) -> P:
    """`Predictor.from_pretrained`."""
    if not isinstance(probe, (Mapping, types.NoneType)):
        raise InputError(f"probe={probe!r:.100}: expected options of the probe, {{'name': value}}")
    where = hub.locate(name, hub.Access(revision, cache_dir, local_files_only, token), FILES)
    published = hub.local_folder(name) is None
    if not (where / FACTS).exists():
        if probe is not None:
            raise InputError(f"{name} has a trained head and no probe: leave probe={dict(probe)} out")
        model = checkpoint.read(where, published=published, allow=allow)
        return cls(model.to(device=device, dtype=dtype).eval())

    def load(part: Path) -> Any:
        model = checkpoint.read(part / MODEL_FOLDER, published=published, allow=allow)
        model.to(device=device, dtype=dtype).eval()
        return load_context(part / CONTEXT_FOLDER, model, **(probe or {}))

    def plan(part: Path) -> _Facts:
        return typed(_Facts, read_object(part / FACTS), str(part / FACTS))

    facts, context = PREDICTOR.read(where, plan, load)
    if [item.id for item in facts.classes] != context.classes_:
        raise ConfigError(f"{where / FACTS} lists other classes than {where / CONTEXT_FOLDER}")
    task = None if facts.task == "segmentation" else facts.task
    return cls(context, task, {i.id: i.name for i in facts.classes}, {i.id: i.colour for i in facts.classes})


def is_predictor(name: str) -> bool:
    """Whether a command line's model is the folder of a predictor that was fitted to examples."""
    part = parse_model(name)
    return isinstance(part, Part) and (Path(part.name) / FACTS).is_file()


def identity(predictor: Predictor) -> dict[str, Any]:
    """Everything that determines the predictions, as JSON values: task, weights, probe, classes with their colours."""
    context, config = predictor.context, predictor.model.model_config
    classes = {str(item.id): {"name": item.name, "colour": list(item.colour)} for item in predictor.classes}
    parts = {"task": predictor.task, "model": state_digest(predictor.model.state_dict()), "classes": classes}
    if context is not None and context.probe_ is not None:
        with blamed("probe", context.method):
            examples = state_digest(context.probe_.state_dict())
        return {**parts, "method": context.method, "options": dict(context.options), "examples": examples}
    output = None if config is None or config.output is None else json_digest(asdict(config.output))
    return {**parts, "output": output}
