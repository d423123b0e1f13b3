"""Save and load a fitted InContext (probe.json, probe.safetensors), without its model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from dense_ctx import InContext
from dense_ctx.config import typed
from dense_ctx.errors import CheckpointError, NotFittedError, about
from dense_ctx.files import state_digest, write_json, write_tensors
from dense_ctx.gateway import gateway
from dense_ctx.incontext.targets import IgnoreIndex
from dense_ctx.interfaces import Probe, Task
from dense_ctx.numerics import preserve_generators, require_finite
from dense_ctx.persistence.artefact import Artefact, read_object
from dense_ctx.persistence.file_args import check_file_args
from dense_ctx.persistence.tensors import load_probe, read_state, stored
from dense_ctx.plugins import blamed, registry

if TYPE_CHECKING:
    from dense_ctx.model import DenseModel

CONTEXT = Artefact("fitted InContext", ("probe.json", "probe.safetensors"))


@dataclass(frozen=True)
class _Facts:
    """probe.json: a fitted context without its tensors. outputs: channels. model: identity of the feature model."""

    method: str
    task: Task
    options: Mapping[str, Any]
    ignore_index: IgnoreIndex
    classes: tuple[int, ...]
    channels: int
    outputs: int
    model: Mapping[str, Any]
    binary: bool | None


@gateway
def save_context(context: InContext, folder: str | os.PathLike[str]) -> Path:
    """Save a fitted context atomically (probe.safetensors, probe.json, manifest.json), without the model.

    Raises:
        NotFittedError: before `fit`.
        NonFiniteError: the probe holds NaN or infinity.
        FileError: the folder holds other files, another process is writing it, or it cannot be written.
    """
    folder = Path(folder)
    if context.probe_ is None:
        raise NotFittedError("Nothing to save: call fit first")
    targets = context.targets_
    facts = _Facts(
        context.method, cast(Task, context.task_), context.options, context.ignore_index, tuple(targets.classes),
        targets.channels, _outputs(context, context.probe_), model_identity(context.model), targets.binary,
    )  # fmt: skip
    with blamed("probe", context.method):
        tensors = stored(context.probe_.state_dict())
    require_finite("The fitted probe, which is not saved", "Fit it again", **tensors)

    def fill(partial: Path) -> None:
        write_tensors(partial / "probe.safetensors", tensors)
        write_json(partial / "probe.json", asdict(facts))

    CONTEXT.write(folder, fill)
    return folder


@gateway
def load_context(folder: str | os.PathLike[str], model: DenseModel, /, **options: Any) -> InContext:
    """Load a context that `save_context` wrote, for the same model.

    Args:
        **options: options of the probe, instead of those in the folder, which must not name files, folders or devices
            (`Probe.file_args`).

    Raises:
        FileError: files are missing.
        CheckpointError: the files are damaged, were saved for another model, or do not hold this probe's tensors.
        ConfigError: probe.json has missing or unknown keys, or an argument that must not come from a file.
        NonFiniteError: the probe holds NaN or infinity.
    """
    folder = Path(folder)
    data, tensors = CONTEXT.read(
        folder, lambda part: read_object(part / "probe.json"), lambda part: read_state(part / "probe.safetensors")
    )
    facts = typed(_Facts, data, str(folder / "probe.json"))
    differing = model_differences(facts.model, model_identity(model))
    if differing:
        raise CheckpointError(
            f"{folder} was fitted on the features of another model: {'; '.join(differing)}. Load it with the model "
            "it was fitted with, or fit again"
        )
    from_file = {key: value for key, value in facts.options.items() if key not in options}
    check_file_args("probe", facts.method, from_file, folder)
    context = InContext(model, facts.method, facts.task, facts.ignore_index, **from_file, **options)
    targets = context.targets_
    targets.classes, targets.channels, targets.binary = list(facts.classes), facts.channels, facts.binary
    targets.values = set(facts.classes)
    with about(folder):
        require_finite("The fitted probe", "Fit it again", **tensors)
    with preserve_generators():
        probe = cast(Probe, registry().create("probe", facts.method, task=facts.task, **from_file, **options))
        load_probe(probe, tensors, str(folder))
        outputs, channels = _outputs(context, probe), facts.outputs if facts.task == "regression" else 0
        if (outputs, channels) != (facts.outputs, facts.channels):
            raise CheckpointError(f"{folder} predicts {outputs} channels; saved with {facts.outputs}, {facts.channels}")
    context.probe_ = probe
    return context


def model_identity(model: DenseModel) -> dict[str, Any]:
    """Values that must be equal for two models to have the same features."""
    config = model.model_config
    return {
        "backbone": type(model.backbone).__name__ if config is None else config.backbone.name,
        "decoder": type(model.decoder).__name__,
        "decoder_args": None if config is None else config.to_dict()["decoder"]["args"],
        "strides": list(model.backbone.strides),
        "dim": model.dim,
        "dtype": str(model.dtype).removeprefix("torch."),
        "weights": state_digest(model.state_dict()),
    }


def model_differences(saved: Mapping[str, Any], identity: Mapping[str, Any]) -> list[str]:
    """Describe each value that differs.

    The digest of the weights depends on their dtype: with equal dtypes it replaces the backbone's name, which may be a
    path; otherwise it is not compared. The decoder's arguments are unknown for a model built from modules.
    """
    left_out = {"dtype", "backbone" if saved.get("dtype") == identity["dtype"] else "weights"}
    if saved.get("decoder_args") is None or identity["decoder_args"] is None:
        left_out.add("decoder_args")
    pairs = {key: (saved.get(key), value) for key, value in identity.items() if key not in left_out}
    return [f"{key} was {before!r}, is {now!r}" for key, (before, now) in pairs.items() if before != now]


def _outputs(context: InContext, probe: Probe) -> int:
    """Number of channels that a fitted probe predicts from the model's features."""
    with torch.inference_mode(), blamed("probe", context.method):
        return probe.outputs(context.model.dim, context.model.backbone.dims[-1])
