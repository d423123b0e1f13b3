"""The authors' files of upsamplers -> a model folder: the backbone by name, the decoder with the file's tensors."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from dense_ctx_backbones.official import checkpoint_tensors
from torch import Tensor

from dense_ctx.config import ModelConfig, Part, parse_part
from dense_ctx.errors import ConfigError
from dense_ctx.files import file_digest
from dense_ctx.model import DenseModel
from dense_ctx.persistence.tensors import require_state, specs

from .published_names import (
    Renamed,
    anyup_tensors,
    featup_tensors,
    jafar_tensors,
    loftup_tensors,
    naf_tensors,
    uplift_tensors,
)

Reader = Callable[[Mapping[str, Tensor]], Renamed]


def converted(name: str, path: str | os.PathLike[str], backbone: str | None, reader: Reader, layer: int) -> DenseModel:
    """The model of a published upsampler's file.

    Args:
        name: the decoder's.
        path: of the file.
        backbone: NAME or NAME(key=value, ...). A file does not say which one it was trained for.
        reader: of the file's tensors: ours by name, arguments that follow from their shapes, and the names of tensors
            that nothing that comes out depends on.
        layer: index of the backbone's map, negative ones from the end.

    Raises:
        FileError: no such file.
        CheckpointError: damaged; tensors missing, left over or of a shape that does not fit, by name.
        ConfigError: no backbone was named.
    """
    if backbone is None:
        raise ConfigError(
            f"{name}: a file does not say which backbone's maps it is for; name it, as in backbone=dinov2-s14 or "
            "backbone='dinov2-s14(weights=FILE)'"
        )
    state = checkpoint_tensors(Path(path))
    tensors, shapes, unused = reader(state)
    part = parse_part(backbone)
    decoder = Part(name, {**shapes, "layer": layer})
    model: DenseModel = DenseModel.from_parts(part, decoder)
    require_state(tensors, specs(model.decoder.state_dict()), f"{path} does not fit {name} on {part}", cast=True)
    model.decoder.load_state_dict(tensors)
    record = {"checkpoint": Path(path).name, "sha256": file_digest(Path(path)), "unused": sorted(unused)}
    assert model.model_config is not None  # of parts by name
    model.model_config = ModelConfig(model.model_config.backbone, decoder, trained_with=record)
    return model


def from_anyup(path: str | os.PathLike[str], backbone: str | None = None, layer: int = -1) -> DenseModel:
    """The model of an AnyUp file, `anyup_paper.pth` or `anyup_multi_backbone.pth`, which fits any backbone.

    Args:
        path, backbone, layer: see `converted`.
    """
    return converted("anyup", path, backbone, anyup_tensors, layer)


def from_jafar(path: str | os.PathLike[str], backbone: str | None = None, layer: int = -1) -> DenseModel:
    """The model of a JAFAR file, which fits the backbone that it is named after.

    Args:
        path, backbone, layer: see `converted`.
    """
    return converted("jafar", path, backbone, jafar_tensors, layer)


def from_naf(path: str | os.PathLike[str], backbone: str | None = None, layer: int = -1) -> DenseModel:
    """The model of NAF's file, `naf_release.pth`, which fits any backbone.

    Args:
        path, backbone, layer: see `converted`.
    """
    return converted("naf", path, backbone, naf_tensors, layer)


def from_featup(path: str | os.PathLike[str], backbone: str | None = None, layer: int = -1) -> DenseModel:
    """The model of a FeatUp file, `NAME_jbu_stack_cocostuff.ckpt`, with its layer norm or without.

    Args:
        path, backbone, layer: see `converted`.
    """
    return converted("featup", path, backbone, featup_tensors, layer)


def from_loftup(path: str | os.PathLike[str], backbone: str | None = None, layer: int = -1) -> DenseModel:
    """The model of a LoftUp file, as its hub repositories hold it or as its training script saved it.

    Args:
        path, backbone, layer: see `converted`.
    """
    return converted("loftup", path, backbone, loftup_tensors, layer)


def from_uplift(path: str | os.PathLike[str], backbone: str | None = None, layer: int = -1) -> DenseModel:
    """The model of an UPLiFT file for a ViT; the one for the latents of a diffusion model has another architecture.

    Args:
        path, backbone, layer: see `converted`.
    """
    return converted("uplift", path, backbone, uplift_tensors, layer)
