"""Presets of `dense-ctx pseudo-label`: the model, the segmenter and all settings of the tasks, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dense_ctx.config import Parts, load_yaml, override, typed
from dense_ctx.errors import ConfigError
from dense_ctx.plugins import registry

from .task_settings import TaskSettings

VERB = "pseudo-label"


def task_preset(name: str, settings: Sequence[str] = ()) -> tuple[Parts, TaskSettings]:
    """The model and the settings of a preset, which is verb, model and the fields of `TaskSettings`.

    Args:
        name: of a registered preset, or a YAML file.
        settings: changes, such as "segmenter.args.tau=0.4" or "model.backbone.args.weights=PATH".

    Raises:
        UnknownNameError, FileError: there is none. ConfigError: it is of another verb, lacks a model, or has an unknown
            key or a value of the wrong type.
    """
    data = load_yaml(registry().text("preset", name), name)
    if not isinstance(data, Mapping) or data.get("verb") != VERB or "model" not in data:
        raise ConfigError(f"{name} is no preset of {VERB} (verb: {VERB}, model, segmenter ...)")
    values = override(dict(data), *settings)
    model = typed(Parts, values.pop("model"), name, "model")
    if values.pop("verb") != VERB:
        raise ConfigError(f"{name}: verb cannot be changed")
    return model, typed(TaskSettings, values, name)
