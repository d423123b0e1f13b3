"""Files of a transformers repository, as data: no code in it runs, and nothing in it leads to another repository.

transformers itself asks on standard input whether to run a repository's code, follows `adapter_config.json` to a second
repository, and builds backbones of backbones from a third. Here its configuration is read as JSON, bounded, and its
weights by `read_state`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import nullcontext
from math import isfinite
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from dense_ctx.errors import FileError, InputError, UnknownNameError, WeightsError
from dense_ctx.files import MAX_TEXT, read_json
from dense_ctx.persistence import hub
from dense_ctx.persistence.links import may_fetch, may_read_paths

from .weights import SHARDS, hub_error

_CONFIGS = ("config.json", "preprocessor_config.json")
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# keys by which a configuration refers to another network
_ELSEWHERE = ("backbone", "backbone_config", "use_pretrained_backbone", "use_timm_backbone", "backbone_kwargs")
_SEEING = ("patch_size", "image_size", "num_channels", "hidden_sizes", "embed_dims")
_MOST = 1 << 20  # of a whole number: classes of the largest label sets, pixels
_DEEPEST = 256  # of a number of layers, and entries of a list


def hf_folder(repo: str, revision: str | None, weights: bool) -> Path:
    """The folder with config.json and, if `weights`, the weights: the one named, or the repository's in the cache.

    Raises:
        WeightsError: the Hub does not provide them; or an untrusted file, not the user, names the repository.
    """
    if may_read_paths() and os.path.isdir(repo):
        return Path(repo)
    files = [*_CONFIGS, *(("model.safetensors", SHARDS[0]) if weights else ())]
    allowed = may_fetch(repo)
    access = hub.Access(revision, local_files_only=not allowed)
    try:
        folder = hub.fetch(repo, repo, files, access)
        if weights and not any(folder.glob("model*.safetensors")):
            folder = hub.fetch(repo, repo, ["pytorch_model.bin", SHARDS[1]], access)
    except (UnknownNameError, WeightsError) as error:
        if not allowed:
            raise hub.unnamed(repo) from error
        raise hub_error(error, repo, f"hf:{repo}") from error
    return folder


def read_config(folder: Path) -> Any:
    """transformers' configuration of a folder.

    Raises:
        FileError: no config.json, or no JSON. InputError: an architecture that is not transformers' own, one that
            takes its network from elsewhere, or a size that no encoder has.
    """
    data = read_json(folder / "config.json", MAX_TEXT)
    if not isinstance(data, Mapping) or not isinstance(data.get("model_type"), str):
        raise FileError(f"{folder / 'config.json'} names no model_type: it is not a configuration of transformers")
    inner = data.get("vision_config")
    vision = inner if isinstance(inner, Mapping) else data
    kind = str(vision.get("model_type", data["model_type"]))[:80]
    elsewhere = [key for key in _ELSEWHERE if data.get(key) or vision.get(key)]
    if elsewhere or kind.startswith("timm"):
        raise InputError(
            f"{folder / 'config.json'} ({kind}) takes its network from elsewhere ({', '.join(elsewhere) or kind}); "
            "such a configuration is not followed. Name that network itself: timm:NAME or hf:REPO"
        )
    for key, value in vision.items():
        _bounded(folder, str(key), value)
    try:
        config = transformers.AutoConfig.from_pretrained(  # nosec B615  # a local folder
            folder, trust_remote_code=False, local_files_only=True
        )
    except Exception as error:  # its own checks raise many kinds
        raise InputError(
            f"transformers has no vision encoder of its own for {folder} ({kind}); code of the repository is not run: "
            f"{str(error).splitlines()[0][:300] if str(error) else type(error).__name__}"
        ) from error
    if not any(hasattr(getattr(config, "vision_config", config), key) for key in _SEEING):
        raise InputError(
            f"{folder / 'config.json'} ({kind}) is of no vision encoder: it states no {', '.join(_SEEING)}"
        )
    return config


def _bounded(folder: Path, key: str, value: Any) -> None:
    most = _DEEPEST if "layers" in key or "depth" in key or "blocks" in key else _MOST
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, (int, float)) and not (isfinite(item) and abs(item) <= most):
            raise InputError(f"{folder / 'config.json'}: {key[:80]} is {str(item)[:30]}; no encoder has above {most:,}")
    if isinstance(value, list) and len(value) > _DEEPEST:
        raise InputError(f"{folder / 'config.json'}: {key[:80]} has {len(value):,} entries; at most {_DEEPEST}")


def empty_net(config: Any, repo: str, device: str | None = None) -> nn.Module:
    """The network of a configuration with random weights; raises InputError if transformers cannot build it."""
    try:
        with nullcontext() if device is None else torch.device(device):
            net: nn.Module = transformers.AutoModel.from_config(config, trust_remote_code=False)
        return net
    except Exception as error:
        raise InputError(f"transformers cannot build a vision encoder from {repo!r}: {error!s:.300}") from error


def statistics(folder: Path) -> tuple[Any, Any]:
    """The folder's mean and std; 0 and 1 where it says do_normalize: false, ImageNet's where it states none.

    Raises:
        InputError: not three numbers each.
    """
    files = (folder / "preprocessor_config.json", folder / "processor_config.json")  # an image's, or text's with it
    path = next((path for path in files if path.exists()), None)
    values = read_json(path, MAX_TEXT) if path else {}
    values = values.get("image_processor", values) if isinstance(values, Mapping) else values
    if not isinstance(values, Mapping):
        raise InputError(f"{path} holds a {type(values).__name__}, not an object")
    if values.get("do_normalize") is False:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    mean, std = values.get("image_mean") or _IMAGENET[0], values.get("image_std") or _IMAGENET[1]
    for numbers in (mean, std):
        ok = isinstance(numbers, (list, tuple)) and len(numbers) == 3
        if not ok or not all(isinstance(item, (int, float)) and isfinite(item) for item in numbers):
            raise InputError(f"{path}: image_mean and image_std are three numbers each")
    return tuple(mean), tuple(std)
