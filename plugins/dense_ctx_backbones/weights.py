"""Weights from files and from hubs, with errors a user can act on. Pickles are opened for tensors only."""

from __future__ import annotations

import os
from collections.abc import Mapping
from math import prod
from pathlib import Path

from torch import Tensor, nn

from dense_ctx.errors import FileError, WeightsError
from dense_ctx.files import read_pickle, read_tensors, regular_size, tensor_shapes

State = dict[str, Tensor]

_NAMES = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors")
SHARDS = ("model-*-of-*.safetensors", "pytorch_model-*-of-*.bin")
_ROOM = 64  # times as many numbers as the network has: towers and heads beside it
_WRAPPERS = ("model", "state_dict", "teacher", "module")  # what training scripts wrap a state dict in


def read_state(path: str | os.PathLike[str], net: nn.Module) -> State:
    """The tensors of a .safetensors, .pth, .pt or .bin file, or of a folder that holds one or its shards, for `net`.

    Raises:
        FileError: missing, not a regular file, or a folder without weights.
        WeightsError: damaged, far too large for `net`, or a pickle that holds more than tensors.
    """
    path = Path(path)
    if path.is_dir():
        file = next((path / name for name in _NAMES if (path / name).exists()), None)
        shards = next((found for pattern in SHARDS if (found := sorted(path.glob(pattern)))), [])
        if file is None and shards:
            return {key: value for shard in shards for key, value in read_state(shard, net).items()}
        if file is None:
            raise FileError(f"The folder {path} holds none of {', '.join(_NAMES)}")
        path = file
    if not path.exists():
        raise FileError(f"No weights at {path}")
    try:
        room = _ROOM * sum(value.numel() for value in net.state_dict().values()) + (1 << 24)
        size = regular_size(path) // 8
        if path.suffix == ".safetensors":
            size = sum(prod(shape) for shape in tensor_shapes(path).values())
        if size > room:
            raise ValueError(f"it holds some {size:,} numbers, far more than {type(net).__name__} has use for")
        if path.suffix == ".safetensors":
            return read_tensors(path)
        loaded = read_pickle(path)
    except ValueError as error:
        raise WeightsError(f"{path} cannot be read as weights: {error}") from error
    while isinstance(loaded, Mapping) and not any(isinstance(value, Tensor) for value in loaded.values()):
        inner = next((loaded[key] for key in _WRAPPERS if key in loaded), None)
        if inner is None:
            raise WeightsError(f"{path} holds no tensors at its top level; its keys are {sorted(map(str, loaded))[:8]}")
        loaded = inner
    if not isinstance(loaded, Mapping):
        raise WeightsError(f"{path} holds a {type(loaded).__name__}, not a state dict")
    state = {str(key): value for key, value in loaded.items() if isinstance(value, Tensor)}
    for prefix in ("module.", "backbone."):  # DataParallel, DINO's teacher
        if all(key.startswith(prefix) or key.startswith("head.") for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    return state


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load every tensor or none.

    Raises:
        WeightsError: names the missing, unexpected and wrongly shaped tensors.
    """
    own = module.state_dict()
    missing = sorted(set(own) - set(state))
    extra = sorted(set(state) - set(own))
    shapes = [
        f"{key} {list(state[key].shape)} for {list(own[key].shape)}"
        for key in sorted(set(own) & set(state))
        if state[key].shape != own[key].shape
    ]
    faults = [
        f"{len(items)} {kind} ({', '.join(items[:4])}{' ...' if len(items) > 4 else ''})"
        for kind, items in (("missing", missing), ("unexpected", extra), ("of another shape", shapes))
        if items
    ]
    if faults:
        raise WeightsError(f"The weights of {source} do not fit: tensors {'; '.join(faults)}")
    broken = [key for key, value in state.items() if value.is_floating_point() and not bool(value.isfinite().all())]
    if broken:
        raise WeightsError(f"The weights of {source} hold NaN or infinity: {', '.join(broken[:4])}")
    module.load_state_dict(state)


def cached_state(repository: str, net: nn.Module) -> State | None:
    """The weights of a Hub repository, if the cache has them; opens no connection.

    Where it has not, one quick request tells whether the Hub answers: the client's own download would try for most of a
    minute before it gave up.
    """
    from huggingface_hub import HfApi, constants, try_to_load_from_cache

    for name in _NAMES:
        path = try_to_load_from_cache(repository, name)
        if isinstance(path, str):
            return read_state(path, net)
    if not constants.HF_HUB_OFFLINE:
        HfApi().repo_info(repository, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    return None


def hub_error(error: Exception, repository: str, name: str) -> WeightsError:
    """What to do when a hub did not answer, or refused."""
    from huggingface_hub import constants

    text = str(error)
    if "401" in text or "403" in text or "gated" in text.lower():
        return WeightsError(
            f"The repository {repository} refuses access. Ask on its page, then `hf auth login` or set HF_TOKEN; "
            f'or pass weights="PATH" with a file you have'
        )
    return WeightsError(
        f"The pretrained weights of {name} could not be loaded from the Hub repository {repository} "
        f"({type(error).__name__}). They are not in the cache {constants.HF_HUB_CACHE} (HF_HOME moves it; "
        f"HF_HUB_OFFLINE is {'set' if constants.HF_HUB_OFFLINE else 'not set'}). Without a network: "
        f'weights="PATH" loads a local file, weights=None starts untrained, and "efficientnet-lite0" comes with pip'
    )
