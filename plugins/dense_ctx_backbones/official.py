"""Models built from the tensors of an author's checkpoint, for the converters."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from dense_ctx.config import ModelConfig, Part
from dense_ctx.errors import CheckpointError, FileError, WeightsError
from dense_ctx.files import file_digest, read_pickle
from dense_ctx.model import DenseModel
from dense_ctx.persistence.tensors import read_with_metadata

from .unused import is_unused

_WRAPPED = re.compile(r"^((model|state_dict)\.)*(module\.)?")
# what a script keeps beside the network to go on training: no part of it
_TRAINING = re.compile(
    r"(optim(izers?)?|(lr_?)?sched(ulers?)?|((grad|loss|amp)_?)?scaler|(\w+_)?rng_states?|random_states?)(_state_dict)?"
)


def checkpoint_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a training script's checkpoint, by dotted names without "model.", "state_dict." and "module.".

    Left out, beside a "model" or "state_dict", are only the states of optimizers, schedulers, scalers and random
    numbers, and single numbers (the best loss so far). Names of other entries stay whole: "model_ema.blocks.0...".

    Raises:
        FileError: no such file.
        CheckpointError: damaged, holding other objects than tensors and plain values, no tensors, or two of one name.
    """
    if not path.is_file():
        raise FileError(f"No checkpoint at {path}")
    try:
        loaded = read_with_metadata(path)[0] if path.suffix == ".safetensors" else read_pickle(path)
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged, or holds more than tensors and is not opened: {error}") from None
    if isinstance(loaded, Mapping) and any(isinstance(loaded.get(key), Mapping) for key in ("model", "state_dict")):
        loaded = {key: value for key, value in loaded.items() if not _of_training(str(key), value)}
    state: dict[str, Tensor] = {}
    sources: dict[str, str] = {}
    for key, value in _flat(loaded):
        if (name := _WRAPPED.sub("", key)) in state:
            raise CheckpointError(
                f"{path} has two tensors of one name, {sources[name]} and {key}: save one network alone"
            )
        state[name], sources[name] = value, key
    if not state:
        raise CheckpointError(f"{path} holds no tensors, nor do its entries model and state_dict")
    return state


def _of_training(key: str, value: Any) -> bool:
    return bool(_TRAINING.fullmatch(key)) or (isinstance(value, Tensor) and value.ndim == 0)


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, part in items:
        yield from _flat(part, f"{name}.{key}" if name else str(key))


def official_model(
    path: Path, backbone: Part, decoder: Part, encoder: Mapping[str, Tensor], prefix: str, unused: Iterable[str]
) -> DenseModel:
    """Build the parts, the backbone with the tensors of `encoder`; the model's folder will hold it whole.

    Args:
        path: of the checkpoint, for the record in the model's configuration.
        prefix: of the encoder's names in the checkpoint, for the same record.
        unused: names of the checkpoint's tensors that no feature depends on, for the same record; those of the encoder
            that the backbone leaves out (heads, decoders) are added.

    Raises:
        WeightsError: tensors that do not fit the backbone, by name.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{path.stem}.safetensors"
        save_file({key: value.contiguous().clone() for key, value in encoder.items()}, file)
        with_file = replace(backbone, args={**backbone.args, "weights": str(file)})
        try:
            model: DenseModel = DenseModel.from_parts(with_file, decoder)
        except WeightsError as error:  # of the user's file, not of ours
            raise WeightsError(str(error).replace(str(file), str(path))) from None
    model.backbone.source = None  # without a source, the folder stores all of it
    own = model.backbone.state_dict()
    leftovers = {*unused, *(f"{prefix}{key}" for key in encoder if is_unused(key) and f"net.{key}" not in own)}
    record = {"checkpoint": path.name, "sha256": file_digest(path), "unused": sorted(leftovers)}
    model.model_config = ModelConfig(backbone, decoder, trained_with=record)
    model.decoder.fresh = False
    return model
