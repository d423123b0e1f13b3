"""Models built from the tensors of an author's checkpoint, for the converters."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from ..config import ModelConfig, Part
from ..errors import CheckpointError, FileError, WeightsError
from ..files import file_digest, read_pickle, read_with_metadata
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
        loaded = read_with_metadata(path)[0] if path.suffix == ".safetensors" else read_pickle(path)
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged, or holds more than tensors and is not opened: {error}") from None
    while isinstance(loaded, Mapping) and not any(isinstance(value, Tensor) for value in loaded.values()):
        loaded = next((loaded[key] for key in ("model", "state_dict") if key in loaded), None)
    items = loaded.items() if isinstance(loaded, Mapping) else ()
    state = {str(key).removeprefix("module."): value for key, value in items if isinstance(value, Tensor)}
    if not state:
        raise CheckpointError(f"{path} holds no tensors, nor do its entries model and state_dict")
    return state


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
        try:
            model: DenseModel = DenseModel.from_parts(with_file, decoder)
        except WeightsError as error:  # of the user's file, not of ours
            raise WeightsError(str(error).replace(str(file), str(path))) from None
    model.backbone.source = None  # without a source, the folder stores all of it
    record = {"checkpoint": path.name, "sha256": file_digest(path), "unused": sorted(unused)}
    model.model_config = ModelConfig(backbone, decoder, trained_with=record)
    model.decoder.fresh = False
    return model
