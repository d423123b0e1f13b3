"""Official DIP checkpoints (github.com/sirkosophia/DIP, checkpoint-N.pth) -> a model folder.

They hold the whole encoder, as `feats_extractor.model.*` or (newer training script) `feats_extractor.encoder.*`, and
what is discarded after post-training: `projector.*`, `enc_norm.*`.
"""

from __future__ import annotations

import os
from pathlib import Path

from dense_ctx_backbones.official import checkpoint_tensors, official_model
from torch import Tensor

from dense_ctx.config import Part, parse_part
from dense_ctx.errors import CheckpointError
from dense_ctx.model import DenseModel

from .projector import Projector

_ENCODERS = ("feats_extractor.model.", "feats_extractor.encoder.")
_THROWN_AWAY = ("projector.", "enc_norm.", "feats_extractor.model.mask_token", "feats_extractor.encoder.mask_token")
_SIZES = {384: "s14", 768: "b14", 1024: "l14", 1536: "g14"}


def read_dip(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of an official checkpoint; of its pickle only tensors and plain values are opened.

    Raises:
        FileError: no such file.
        CheckpointError: damaged, holding other objects, or not one of DIP's.
    """
    state = checkpoint_tensors(Path(path))
    encoders = [prefix for prefix in _ENCODERS if any(key.startswith(prefix) for key in state)]
    if len(encoders) != 1:
        raise CheckpointError(
            f"{path} has tensors of {' and '.join(f'{p}*' for p in encoders) or f'neither {_ENCODERS[0]}* nor '}"
            f"{'' if encoders else f'{_ENCODERS[1]}*'}: not a DIP checkpoint. Its tensors begin with "
            f"{', '.join(list(state)[:4])}"
        )
    unknown = [key for key in state if not key.startswith((encoders[0], *_THROWN_AWAY))]
    if unknown:
        raise CheckpointError(f"{path} has tensors that are not known to be unused: {', '.join(unknown[:4])}")
    return state


def from_dip(path: str | os.PathLike[str], backbone: str | None = None) -> DenseModel:
    """The model of an official checkpoint; `save_pretrained(folder)` makes a model folder of it.

    Args:
        path: of the .pth file.
        backbone: NAME or NAME(key=value, ...); default by width and registers: "dinov2-reg-s14", "dinov2-b14" ...

    Raises:
        FileError, CheckpointError: as `read_dip`; or an encoder of unknown width.
        WeightsError: tensors that do not fit the backbone, by name.
    """
    state = read_dip(path)
    prefix = next(prefix for prefix in _ENCODERS if any(key.startswith(prefix) for key in state))
    encoder = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    if backbone is None:
        width = encoder["cls_token"].shape[-1] if "cls_token" in encoder else 0
        if width not in _SIZES:
            raise CheckpointError(f"{path}: an encoder of width {width} is none of {_SIZES}; give backbone=NAME")
        registers = any(key in encoder for key in ("register_tokens", "reg_token"))
        backbone = f"dinov2-{'reg-' if registers else ''}{_SIZES[width]}"
    unused = [key for key in state if key.startswith(_THROWN_AWAY)]
    return official_model(Path(path), parse_part(backbone), Part("upsample"), encoder, prefix, unused)


def projector_of(path: str | os.PathLike[str]) -> Projector:
    """The projector with its LayerNorm, for further training (`objective.projector`).

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
