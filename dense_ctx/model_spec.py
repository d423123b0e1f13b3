"""The notation of a model on command lines and in training configurations, and opening such a model.

    NAME                        a registered model: lila-lite0
    FOLDER                      what save_pretrained or training wrote: runs/mine/model
    OWNER/NAME                  a model on the Hub
    BACKBONE+DECODER            a new model with an untrained decoder: dinov2-s14+dpt(dim=128)
    BACKBONE                    BACKBONE+upsample

Each takes arguments in brackets: dinov2-s14(weights=PATH), OWNER/NAME(revision=v1).
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING

from .config import Part, Parts, parse_part, split_parts
from .device import pick_device
from .errors import ConfigError, FileError, InputError, UnknownNameError, WeightsError
from .gateway import gateway
from .plugins import registry

if TYPE_CHECKING:
    import torch

    from .model import DenseModel

DEFAULT_MODEL = "efficientnet-lite0+upsample"
DEFAULT_METHOD = "ensemble"  # the probe of predictions from annotated examples
PLAIN = "upsample"  # the decoder of a backbone without one
_OPTIONS = ("revision", "cache_dir", "local_files_only")  # of saved models


def parse_model(spec: str) -> Parts | Part:
    """A new model's parts, or a saved model's name and options; its existence is not checked.

    Raises:
        ConfigError: none of the notations above.
    """
    if (Path(spec) / "config.json").is_file():
        return Part(spec)
    texts = split_parts(spec)
    if len(texts) == 2:
        return Parts(parse_part(texts[0]), parse_part(texts[1]))
    part = parse_part(spec)
    if part.name not in registry().names("model") and _is_backbone(part.name):
        return Parts(part, Part(PLAIN))
    return part


@gateway
def open_model(
    spec: str, device: str | torch.device | None = None, dtype: str | torch.dtype | None = None
) -> DenseModel:
    """Open a model by its notation, in eval mode.

    Args:
        device, dtype: where to put it, and in what precision; None: as it comes, on the CPU.

    Raises:
        ConfigError, InputError: not a model's spelling; options or arguments it does not take; no such device.
        UnknownNameError: no such model, backbone or decoder; with the nearest spellings.
        WeightsError, FileError, CheckpointError: as `dense_ctx.persistence.hub.load`.
    """
    import torch

    from .model import AutoDenseModel

    parts = parse_model(spec)
    where = None if device is None else pick_device(str(device))
    kind = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    try:
        if isinstance(parts, Parts):
            model = AutoDenseModel.from_parts(parts.backbone, parts.decoder, device=where, dtype=kind)
        else:
            unknown = [key for key in parts.args if key not in _OPTIONS]
            if unknown:
                raise InputError(f"{spec!r}: a saved model takes {', '.join(_OPTIONS)}; got {', '.join(unknown)}")
            model = AutoDenseModel.from_pretrained(parts.name, **parts.args)
    except (UnknownNameError, WeightsError, ConfigError, FileError) as error:
        saved = not isinstance(parts, Parts)
        name = parts.backbone.name if isinstance(parts, Parts) else parts.name
        if (hint := near_miss(name, saved=saved)) is None or Path(name).is_dir():
            raise
        raise type(error)(f"{without_hint(error).rstrip('. ')}. {hint}") from error
    return model.to(device=where, dtype=kind).eval()


def without_hint(error: Exception) -> str:
    """An error's message without the registry's list of similar names."""
    return str(error).replace(error.hint, "") if isinstance(error, UnknownNameError) and error.hint else str(error)


def near_miss(name: str, *, saved: bool = True) -> str | None:
    """A hint at the intended spelling; saved: whether the name may also be a saved model's."""
    owner, slash, rest = name.partition("/")
    backbones = registry().names("backbone")
    models, presets = registry().names("model"), registry().names("preset")
    if _is_backbone(name) or (saved and name in (*models, *presets)):
        return None  # what the error says already
    if name in presets and name not in models:
        return f"{name} is a preset, not a backbone: `dense-ctx train {name} --list` prints it with its commands"
    if not saved and (name in models or (Path(name) / "config.json").is_file()):
        return f"A saved model as a backbone is written model:{name}"
    if slash and "/" not in rest and ":" not in name:
        family, inside = ("timm:", rest) if owner == "timm" else ("hf:", name)
        return f"If it is a backbone, write {family}{inside}" if family in backbones else None
    if name in registry().names("decoder"):
        return f"{name} is a decoder" + (f": write BACKBONE+{name}" if saved else "")
    near = difflib.get_close_matches(name, [*(models if saved else ()), *backbones], n=3)
    alone = f" BACKBONE alone means BACKBONE+{PLAIN}" if saved else ""
    return f"Did you mean {', '.join(near)}?{alone}" if near and near != [name] else None


def _is_backbone(name: str) -> bool:
    try:
        registry().get("backbone", name)
    except UnknownNameError:
        return False
    return True
