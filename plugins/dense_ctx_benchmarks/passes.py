"""Feature maps of backbones on disk, so that models and protocols of one command share each pass."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dense_ctx.data.cache import Shard, write_shard
from dense_ctx.errors import FileError
from dense_ctx.files import json_digest, state_digest
from dense_ctx.interfaces import Backbone, Features

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_BOOKKEEPING = set(vars(nn.Module()))  # hooks, parameters and the like


class BackbonePasses:
    """The maps of each backbone and input, computed once.

    Backbones are one where their classes, weights and settings are, inputs where their pixels, padding and all, are.
    What is read again is what was computed, to the last bit. Maps are kept until the disk budget is used up; what does
    not fit is computed by each model and protocol.

    Args:
        folder: of the files; a later run of the same command finds them.
        budget: bytes on the disk.

    Attributes:
        computed: forward passes of a backbone. read: passes saved. stored: bytes on the disk.
        full: whether the budget, or the disk, was too small.
    """

    def __init__(self, folder: Path, budget: int) -> None:
        self.folder, self.budget = folder, budget
        self.computed = self.read = 0
        self.full = False
        self.stored = sum(path.stat().st_size for path in folder.glob("*/*.safetensors"))

    @contextmanager
    def shared(self, backbone: Backbone, precision: str) -> Iterator[None]:
        """Within the context the backbone reads its maps where they are known.

        Args:
            precision: that of the protocol, in which the backbone runs.
        """
        place, plain = self.folder / f"{backbone_digest(backbone)[:16]}-{precision}", backbone.forward
        backbone.forward = lambda images: self._features(place, plain, images)  # type: ignore[method-assign]
        try:
            yield
        finally:
            del backbone.forward  # the class's is in force again

    def remove(self) -> None:
        """Delete the files."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _features(self, folder: Path, plain: Any, images: Tensor) -> Features:
        path = folder / f"{_digest(images)}.safetensors"
        if path.exists():
            self.read += 1
            return _read(path, images)
        features: Features = plain(images)
        self.computed += 1
        tensors = _named(features)
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        if self.full or self.stored + size > self.budget:
            self.full = True
            return features
        try:
            self.stored += write_shard(path, tensors, _layouts(tensors), sync=False)
        except FileError:  # nothing is lost: maps that are not kept are computed again
            self.full = True
        return features


def backbone_digest(backbone: Backbone) -> str:
    """sha256 of everything that determines a backbone's maps: classes, settings and weights of all its modules."""
    traits = {}
    for name, module in backbone.named_modules():
        own = {key: value for key, value in vars(module).items() if key not in _BOOKKEEPING}
        own["training"] = module.training
        texts = {key: _text(value) for key, value in own.items()}
        traits[name] = [f"{type(module).__module__}.{type(module).__qualname__}", texts]
    device = str(next((tensor.device for tensor in backbone.parameters()), "cpu"))
    return json_digest([traits, state_digest(backbone.state_dict()), device])


def _text(value: Any) -> str:
    """A value's content: what shows only where it lies, or a part of itself, is taken to be one of a kind."""
    if isinstance(value, Tensor):
        return state_digest({"value": value.detach()})
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape} {hashlib.sha256(np.ascontiguousarray(value).data).hexdigest()}"
    if isinstance(value, Mapping):
        return str([(repr(key), _text(item)) for key, item in value.items()])
    if isinstance(value, list | tuple | set | frozenset):
        return f"{type(value).__name__} {[_text(item) for item in value]}"
    if isinstance(value, partial):
        return f"partial {[_text(item) for item in (value.func, value.args, value.keywords)]}"
    if isinstance(value, FunctionType) and "<" not in value.__qualname__:
        return f"{value.__module__}.{value.__qualname__}"
    text = repr(value)
    return f"{text} {id(value)}" if _ADDRESS.search(text) or "..." in text else text


def _digest(images: Tensor) -> str:
    digest = hashlib.sha256(f"{images.dtype} {list(images.shape)}".encode())
    digest.update(images.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _named(features: Features) -> dict[str, Tensor]:
    tensors = {f"map{index}": item for index, item in enumerate(features.maps)}
    return tensors if features.cls is None else {**tensors, "cls": features.cls}


def _layouts(tensors: dict[str, Tensor]) -> dict[str, str]:
    """The maps that lie channels last in memory: sums over them are taken in another order, which shows in a bit."""
    last = [key for key, item in tensors.items() if item.ndim == 4 and not item.is_contiguous()]
    return dict.fromkeys(last, "channels_last")


def _read(path: Path, images: Tensor) -> Features:
    shard = Shard(path)
    tensors = {key: shard.tensor(key).to(images.device) for key in shard.specs}
    for key in shard.metadata:
        tensors[key] = tensors[key].contiguous(memory_format=torch.channels_last)
    cls = tensors.pop("cls", None)
    maps = tuple(tensors[f"map{index}"] for index in range(len(tensors)))
    return Features(maps, cls, (images.shape[-2], images.shape[-1]))
