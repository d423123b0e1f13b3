"""The peak memory of a forward: the most bytes of tensors that are alive at once."""

from __future__ import annotations

import copy
import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from ..images import prepare
from ..interfaces import Size

if TYPE_CHECKING:
    from ..model import DenseModel


class _Live(TorchDispatchMode):
    """Counts the bytes of live storages that operations allocate."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now, self.peak = 0, 0
        self._seen: Any = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for item in tree_leaves((args, kwargs)):
            if isinstance(item, Tensor):
                self._seen.setdefault(item.untyped_storage(), True)  # existed before
        result = func(*args, **(kwargs or {}))
        for item in tree_leaves(result):
            if isinstance(item, Tensor):
                storage = item.untyped_storage()
                if storage not in self._seen:
                    self._seen[storage] = True
                    self.now += storage.nbytes()
                    self.peak = max(self.peak, self.now)
                    weakref.finalize(storage, self._freed, storage.nbytes())
        return result

    def _freed(self, count: int) -> None:
        self.now -= count


def forward_bytes(model: DenseModel, batch: int, window: Size, size: Size) -> int:
    """The most that a forward without gradients holds at once beside its weights, images and result among it.

    Computed on fake tensors, which have shapes and no values.

    Args:
        batch, window: of the images, [batch, 3, *window].
        size: (h, w) of the pixels.

    Raises:
        Exception: of a network that cannot run without values.
    """
    shared = {id(item): item for item in (*model.parameters(), *model.buffers())}
    # a copy with the same weights: caches that the network fills in this run would be useless
    twin = copy.deepcopy(model, shared)
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True), _Live() as live:
        backbone = twin.backbone
        images = torch.empty(batch, 3, *window, device=model.device)
        padded = prepare(images, backbone.mean, backbone.std, backbone.stride, model.dtype)
        twin.decode(backbone(padded), padded, window, size)
    return int(live.peak)
