"""Load weights from files and the Hub, with actionable errors. Pickles are opened for tensors only."""

from __future__ import annotations

import contextlib
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dense_ctx.create import placement
from dense_ctx.errors import FileError, WeightsError
from dense_ctx.files import read_pickle, regular_size, tensor_shapes
from dense_ctx.persistence.tensors import nonfinite, read_with_metadata
from dense_ctx.persistence.transfer import persevere

from .unused import PREFIXES, is_unused

State = dict[str, Tensor]

_NAMES = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors")
SHARDS = ("model-*-of-*.safetensors", "pytorch_model-*-of-*.bin")
_ROOM = 64  # times as many numbers as the network has: towers and heads beside it
_WRAPPERS = ("teacher", "model", "state_dict", "module")  # what training scripts wrap a state dict in
# what they keep beside it, to go on training: no part of the network
_TRAINING = re.compile(
    r"(optim|optimizer|lr_sched|sched|scaler|rng|random|grad|loss|dino_loss|ibot|callbacks|loops|student)"
)


def read_state(path: str | os.PathLike[str], prefix: str | None = None, net: nn.Module | None = None) -> State:
    """The tensors of a .safetensors, .pth, .pt or .bin file, or of a folder that holds one or its shards.

    Args:
        prefix: take the tensors whose names begin so ("student.backbone."), and no others; mappings within mappings
            count as dotted names. None: what training scripts put around a network is recognised; so it may be left
            out of a prefix.
        net: what the tensors are for; a file with far more numbers is refused before any is read.

    Raises:
        FileError: missing, not a regular file, or a folder without weights.
        WeightsError: damaged; a pickle that holds more than tensors; several networks; no tensor of that prefix.
    """
    path = Path(path)
    if path.is_dir():
        file = next((path / name for name in _NAMES if (path / name).exists()), None)
        shards = next((paths for pattern in SHARDS if (paths := sorted(path.glob(pattern)))), [])
        if file is None and not shards:
            raise FileError(f"The folder {path} holds none of {', '.join(_NAMES)}")
        files = [file] if file is not None else shards
    elif path.exists():
        files = [path]
    else:
        raise FileError(f"No weights at {path}")
    parts = [_load(file, net) for file in files]
    loaded = parts[0] if len(parts) == 1 else {key: value for part in parts for key, value in dict(part).items()}
    if not isinstance(loaded, Mapping):
        raise WeightsError(f"{path} holds a {type(loaded).__name__}, not a state dict")
    if prefix is not None:
        flat = dict(_flat(loaded))
        state = _behind(flat, prefix)
        if not state:
            with contextlib.suppress(WeightsError):
                state = _behind(_unprefixed(_unwrapped(loaded, path)), prefix)
        if not state:
            raise WeightsError(f"{path} has no tensor {prefix}*: its tensors begin with {', '.join(list(flat)[:4])}")
        return state
    try:
        return _unprefixed(_unwrapped(loaded, path))
    except WeightsError as error:
        raise WeightsError(f"{error}{prefix_hint(dict(_flat(loaded)), net.state_dict() if net else {})}") from None


def _behind(state: Mapping[str, Tensor], prefix: str) -> State:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _load(path: Path, net: nn.Module | None) -> Any:
    safe = path.suffix == ".safetensors"
    try:
        size = regular_size(path) // 8
        if safe:
            size = sum(prod(shape) for shape in tensor_shapes(path).values())
        if net is not None and size > _ROOM * sum(v.numel() for v in net.state_dict().values()) + (1 << 24):
            raise ValueError(f"it holds some {size:,} numbers, far more than {type(net).__name__} has use for")
        return read_with_metadata(path)[0] if safe else read_pickle(path)
    except ValueError as error:
        raise WeightsError(f"{path} cannot be read as weights: {error}") from error


def _unwrapped(loaded: Mapping[Any, Any], path: Path) -> State:
    """The state dict within what a training script saved.

    Raises:
        WeightsError: there is none, or there are several of one network.
    """
    inner = [key for key in _WRAPPERS if isinstance(loaded.get(key), Mapping) and dict(_flat(loaded[key]))]
    if not inner:
        state = {str(key): value for key, value in loaded.items() if isinstance(value, Tensor)}
        if state:
            _say_left(path, {key: value for key, value in loaded.items() if key not in state})
            return state
        raise WeightsError(f"{path} holds no tensors at its top level; its keys are {sorted(map(str, loaded))[:8]}")
    names = set(dict(_flat(loaded[inner[0]])))
    others = [str(key) for key, value in loaded.items() if isinstance(value, Mapping) and key != inner[0]
              and set(dict(_flat(value))) & names]  # fmt: skip
    if others and inner[0] != "teacher":  # the teacher is the result of self-distillation
        raise WeightsError(
            f"{path} holds the network as {inner[0]} and as {', '.join(others)}: say which, "
            f"prefix={inner[0]}. or prefix={others[0]}."
        )
    _say_left(path, {key: value for key, value in loaded.items() if key not in (inner[0], *others)})
    return _unwrapped(loaded[inner[0]], path)


def _say_left(path: Path, beside: Mapping[Any, Any]) -> None:
    """Warn of tensors beside the network that no training needs to go on."""
    keys = [str(key) for key, value in beside.items() if not _TRAINING.match(str(key)) and _holds_tensors(value)]
    if keys:
        warnings.warn(f"{path}: the tensors under {', '.join(keys[:8])} are not read", stacklevel=2)


def _holds_tensors(value: Any) -> bool:
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return isinstance(value, Tensor)
    return any(map(_holds_tensors, value))


def _flat(loaded: Mapping[Any, Any], before: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors, under dotted names."""
    for key, value in loaded.items():
        if isinstance(value, Tensor):
            yield f"{before}{key}", value
        elif isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")


def _unprefixed(state: State) -> State:
    """Without the prefixes that wrappers of networks add, where nothing but unused tensors lies outside of them."""
    for prefix in PREFIXES:
        inside = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        if inside and all(key.startswith(prefix) or is_unused(key) for key in state):
            return _unprefixed(inside)
    return state


def prefix_hint(state: Mapping[str, Tensor], own: Mapping[str, Tensor], prefix: str = "") -> str:
    """A hint for the case that the network's names have another prefix; `prefix` is taken off those of `state`."""
    first = next(iter(own), "")
    near = sorted({prefix + key.removesuffix(first) for key in state if key.endswith(f".{first}")})
    return f". Tensors of these names stand behind {', '.join(near)}: give prefix={near[0]}" if near else ""


def renamed(state: Mapping[str, Tensor], name_of: Callable[[str], str]) -> State:
    """The tensors under other names.

    Raises:
        WeightsError: two of them would have one name.
    """
    sources: dict[str, str] = {}
    for key in state:
        if (first := sources.setdefault(name_of(key), key)) != key:
            raise WeightsError(
                f"The weights hold two tensors of one place, {first} and {key}: of two networks? "
                "prefix=PREFIX takes the tensors whose names begin so"
            )
    return {target: state[key] for target, key in sources.items()}


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], source: str, hint: str = "") -> None:
    """Load all tensors, or none on an error.

    Args:
        source: of the tensors, for messages. hint: what to do where they do not fit.

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
        raise WeightsError(f"The weights of {source} do not fit: tensors {'; '.join(faults)}{hint}")
    if broken := nonfinite(state):
        raise WeightsError(f"The weights of {source} hold NaN or infinity: {', '.join(broken[:4])}")
    device, dtype = placement.get()
    if (device, dtype) == (None, None):
        module.load_state_dict(state)
        return
    placed = {}
    for key, value in own.items():  # copies, one by one: what is read may be a file in memory, which others may write
        kind = (dtype or value.dtype) if value.is_floating_point() else value.dtype
        placed[key] = state[key].to(device=device or "cpu", dtype=kind, copy=True)
    module.load_state_dict(placed, assign=True)


def cached_state(repository: str, net: nn.Module) -> State | None:
    """The weights of a Hub repository, if the cache has them; opens no connection.

    Where it has not, one quick request tells whether the Hub answers: the client's own download would try for most of a
    minute before it gave up.
    """
    from huggingface_hub import HfApi, constants, try_to_load_from_cache

    for name in _NAMES:
        path = try_to_load_from_cache(repository, name)
        if isinstance(path, str):
            return read_state(path, net=net)
    if not constants.HF_HUB_OFFLINE:
        persevere(lambda: HfApi().repo_info(repository, timeout=constants.HF_HUB_ETAG_TIMEOUT))
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
