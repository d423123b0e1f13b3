"""Weights of cue networks from files and hubs, with errors that say what to do next."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dense_ctx.errors import UnknownNameError, WeightsError
from dense_ctx.files import read_pickle
from dense_ctx.persistence import hub
from dense_ctx.persistence.tensors import read_with_metadata


def unreachable(name: str, address: str, place: str | Path, why: str) -> WeightsError:
    """What to do if the weights of a cue are unavailable."""
    return WeightsError(
        f"The weights of the cue {name} are not at {place} and could not be downloaded from {address} ({why}). With a "
        f'network they are fetched by themselves; without one, weights="PATH" loads a local copy, weights=None starts '
        f"untrained, and flow:dis needs no weights at all"
    )


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict of a .safetensors, .pth or .ckpt file; a pickle is opened for tensors only.

    Raises:
        WeightsError: damaged, or a pickle that holds more than tensors.
    """
    try:
        loaded: Any = read_with_metadata(path)[0] if path.suffix == ".safetensors" else read_pickle(path)
    except ValueError as error:
        raise WeightsError(f"{path} cannot be read as weights: {error}") from error
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise WeightsError(f"{path} holds no state dict of tensors")
    return loaded


def download(url: str, name: str) -> dict[str, Tensor]:
    """The state dict at `url`, from torch's cache (TORCH_HOME) or brought there; its name ends in a digest.

    Raises:
        WeightsError: not cached, and no answer or another file than the digest says.
    """
    cached = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    if not cached.exists():
        if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
            raise unreachable(name, url, cached, "HF_HUB_OFFLINE is set")
        try:
            cached.parent.mkdir(parents=True, exist_ok=True)
            digest = cached.stem.rsplit("-", 1)[-1]
            torch.hub.download_url_to_file(url, str(cached), hash_prefix=digest, progress=False)
        except Exception as error:  # urllib's, ssl's and the digest's own
            raise unreachable(name, url, cached, f"{type(error).__name__}: {error}") from error
    return read_state(cached)


def snapshot(repository: str, name: str) -> Path:
    """The folder with config.json and model.safetensors of a Hub repository; what is cached opens no connection.

    Raises:
        WeightsError: not cached, and the Hub does not answer or refuses.
    """
    from huggingface_hub import constants

    files = ["config.json", "model.safetensors"]
    with contextlib.suppress(WeightsError):  # not cached
        folder = hub.fetch(repository, repository, files, hub.Access(local_files_only=True))
        if all((folder / file).exists() for file in files):
            return folder
    try:
        return hub.fetch(repository, repository, files)
    except (UnknownNameError, WeightsError) as error:
        raise unreachable(name, repository, constants.HF_HUB_CACHE, str(error)) from error
