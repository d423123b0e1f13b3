"""Models made of the tensors in an author's checkpoint: what the converters of formats share."""

from __future__ import annotations

import argparse
import pickle
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..config import ModelConfig, Part
from ..errors import CheckpointError, FileError
from ..files import file_digest
from ..model import DenseModel


def checkpoint_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a training script's checkpoint, from its top, its "model" or its "state_dict", without "module.".

    Raises:
        FileError: no such file.
        CheckpointError: damaged, holding other objects than tensors and plain values, or no tensors.
    """
    if not path.is_file():
        raise FileError(f"No checkpoint at {path}")
    try:
        loaded: Any = _load(path)
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError, OSError) as error:
        raise CheckpointError(f"{path} is damaged, or holds more than tensors and is not opened: {error}") from None
    while isinstance(loaded, Mapping) and not any(isinstance(value, Tensor) for value in loaded.values()):
        loaded = next((loaded[key] for key in ("model", "state_dict") if key in loaded), None)
    state = {str(k).removeprefix("module."): v for k, v in (loaded or {}).items() if isinstance(v, Tensor)}
    if not state:
        raise CheckpointError(f"{path} holds no tensors, nor do its entries model and state_dict")
    return state


def _load(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return load_file(path)
    with torch.serialization.safe_globals([argparse.Namespace]):  # the training script's arguments lie beside
        return torch.load(path, map_location="cpu", weights_only=True)


def official_model(
    path: Path, backbone: Part, decoder: Part, encoder: Mapping[str, Tensor], unused: Iterable[str]
) -> DenseModel:
    """Build the parts, the backbone with the tensors of `encoder`; the model's folder will hold it whole.

    Args:
        path: of the checkpoint, for the record in the model's configuration.
        unused: names of the checkpoint's tensors that no feature depends on, for the same record.

    Raises:
        WeightsError: tensors that do not fit the backbone, by name.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{path.stem}.safetensors"
        save_file({key: value.contiguous().clone() for key, value in encoder.items()}, file)
        with_file = replace(backbone, args={**backbone.args, "weights": str(file)})
        model: DenseModel = DenseModel.from_parts(with_file, decoder)
    model.backbone.source = None  # it has no home of its own: the folder stores it whole
    record = {"checkpoint": path.name, "sha256": file_digest(path), "unused": sorted(unused)}
    model.model_config = ModelConfig(backbone, decoder, trained_with=record)
    model.decoder.fresh = False
    return model
