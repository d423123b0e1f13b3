"""Official DIP checkpoints (github.com/sirkosophia/DIP, checkpoint-N.pth) -> a model folder.

They hold the whole encoder as `feats_extractor.model.*` and what post-training threw away: `projector.*`, `enc_norm.*`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from dense_ctx import AutoDenseModel
from dense_ctx.config import ModelConfig, Part
from dense_ctx.errors import CheckpointError, FileError
from dense_ctx.files import read_pickle
from dense_ctx.model import DenseModel

from .projector import Projector

_ENCODER = "feats_extractor.model."
_SIZES = {384: "s14", 768: "b14", 1024: "l14", 1536: "g14"}


def read_dip(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of an official checkpoint; of its pickle only tensors and plain values are opened.

    Raises:
        FileError: no such file.
        CheckpointError: damaged, holding other objects, or not one of DIP's.
    """
    path = Path(path)
    if not path.is_file():
        raise FileError(f"No checkpoint at {path}")
    try:
        checkpoint: Any = read_pickle(path)
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged, or holds more than tensors and is not opened: {error}") from None
    while isinstance(checkpoint, Mapping) and not any(isinstance(value, Tensor) for value in checkpoint.values()):
        checkpoint = next((checkpoint[key] for key in ("model", "state_dict") if key in checkpoint), None)
    state = {str(k).removeprefix("module."): v for k, v in (checkpoint or {}).items() if isinstance(v, Tensor)}
    if not any(key.startswith(_ENCODER) for key in state):
        raise CheckpointError(
            f"{path} has no tensor {_ENCODER}*: not a DIP checkpoint. Its tensors begin with "
            f"{', '.join(list(state)[:4]) or 'nothing'}"
        )
    return state


def from_dip(path: str | os.PathLike[str], backbone: str | None = None) -> DenseModel:
    """The model of an official checkpoint; `save_pretrained(folder, standalone=True)` makes a model folder of it.

    Args:
        path: of the .pth file.
        backbone: registered name; default by width and registers: "dinov2-reg-s14", "dinov2-b14" ...

    Raises:
        FileError, CheckpointError: as `read_dip`; or an encoder of unknown width.
        WeightsError: tensors that do not fit the backbone, by name.
    """
    state = read_dip(path)
    encoder = {key.removeprefix(_ENCODER): value for key, value in state.items() if key.startswith(_ENCODER)}
    if backbone is None:
        width = encoder["cls_token"].shape[-1] if "cls_token" in encoder else 0
        if width not in _SIZES:
            raise CheckpointError(f"{path}: an encoder of width {width} is none of {_SIZES}; give backbone=NAME")
        registers = any(key in encoder for key in ("register_tokens", "reg_token"))
        backbone = f"dinov2-{'reg-' if registers else ''}{_SIZES[width]}"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "encoder.safetensors"
        save_file({key: value.contiguous().clone() for key, value in encoder.items()}, file)
        model: DenseModel = AutoDenseModel.from_parts(backbone, "upsample", backbone_args={"weights": str(file)})
    model.backbone.source = None  # it has no home of its own: the folder stores it whole
    model.model_config = ModelConfig(Part(backbone, {}), Part("upsample", {}))
    return model


def projector_of(path: str | os.PathLike[str]) -> Projector:
    """The projector with its LayerNorm, to go on training with (`objective.projector`).

    Raises:
        CheckpointError: its tensors are missing, or do not fit each other.
    """
    state = read_dip(path)
    own = {key.replace("projector.", "").replace("enc_norm.", "norm."): value for key, value in state.items()
           if key.startswith(("projector.", "enc_norm."))}  # fmt: skip
    try:
        dim, out = own["fc1.weight"].shape[1], own["fc2.weight"].shape[0]
        projector = Projector(dim, own["fc1.weight"].shape[0] // dim, out)
        projector.load_state_dict(own)
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(f"{path} has no projector that fits together: {error}") from None
    return projector
