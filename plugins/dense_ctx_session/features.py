"""Features of a session's items: computed once, in a byte budget in memory, on disk where a folder is named."""

from __future__ import annotations

import ctypes
import mmap
import sys
import threading
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dense_ctx.errors import DenseCtxError
from dense_ctx.files import json_digest
from dense_ctx.images import resized
from dense_ctx.interfaces import DenseFeatures, Size
from dense_ctx.model import DenseModel
from dense_ctx.numerics import require_finite

from .disk import DiskFeatures
from .source import Source

STRIDE = 4  # pixels of a cell, at least
PIXELS = 1 << 20  # larger items are encoded at this size: time and memory stay bounded
SAMPLE = 16  # rows and columns of the small map that stays of every item
_SAMPLES = 1 / 16  # of the budget, on top of it
_LARGE = 1 << 18  # bytes
_TRIM = 8  # items computed until the heap is trimmed
_RECENT = 2  # items kept in float32 too
_COARSE = 8  # pixels of a cell for propagation


@dataclass(frozen=True)
class ItemFeatures:
    """float16 maps of an item: pixels [1, D, h, w] on the session's grid, patches [1, C, h', w'] of the encoder."""

    pixels: Tensor
    patches: Tensor
    extent: tuple[float, float]

    @property
    def bytes(self) -> int:
        """Of both maps."""
        return 2 * (self.pixels.numel() + self.patches.numel())

    @property
    def grid(self) -> Size:
        """(h, w) of the pixels."""
        return self.pixels.shape[-2], self.pixels.shape[-1]

    def dense(self) -> DenseFeatures:
        """In float32."""
        return DenseFeatures(self.pixels.float(), self.patches.float(), None, self.extent)

    def pooled(self, factor: int) -> Tensor:
        """The pixels [1, D, h / factor, w / factor] in float32, cells of factor x factor averaged."""
        pixels = self.pixels.float()
        return functional.avg_pool2d(pixels, factor, ceil_mode=True, count_include_pad=False) if factor > 1 else pixels


class FeatureStore:
    """The features of items. Threads may ask at once; one of them runs the model at a time.

    Args:
        model, source: whose features, of what.
        budget: bytes of features in memory; the least recently used go first. The last one always stays.
        disk: for features that outlive the process.

    Attributes:
        samples: of items whose features were computed or read, their maps at 16 x 16 cells at most, in float16; those
            read first go where they would take more than a share of the budget.
        computed: how many items ran through the model.
    """

    def __init__(self, model: DenseModel, source: Source, budget: int, disk: DiskFeatures | None) -> None:
        self.model, self.source, self.budget = model, source, budget
        self.stride = _stride(model)
        self.samples: dict[int, Tensor] = {}
        self.computed = 0
        self.bytes = 0
        self._memory: OrderedDict[int, ItemFeatures] = OrderedDict()
        self._recent: OrderedDict[int, DenseFeatures] = OrderedDict()
        self._lock, self._running = threading.Lock(), threading.Lock()
        self._waiting: OrderedDict[int, None] = OrderedDict()
        self._wake, self._closed = threading.Condition(self._lock), False
        self._worker: threading.Thread | None = None
        self._disk = disk

    def grid(self, index: int) -> Size:
        """(h, w) of an item's pixel features."""
        height, width = self.encoded(index)
        # rounded down: a cell that is a little larger than the decoder's lets it average, a third faster than filtering
        return max(1, height // self.stride), max(1, width // self.stride)

    def encoded(self, index: int) -> Size:
        """(H, W) at which an item goes through the model: its own, or less."""
        item = self.source.items[index]
        scale = min(1.0, (PIXELS / (item.height * item.width)) ** 0.5)
        return max(1, round(item.height * scale)), max(1, round(item.width * scale))

    def factor(self, index: int) -> int:
        """Cells of the grid, a side, to one of propagation, which is about 8 pixels."""
        return max(1, round(_COARSE * self.grid(index)[0] / self.source.items[index].height))

    def get(self, index: int) -> ItemFeatures:
        """The features of an item; waits for a thread that computes them.

        Raises:
            FileError: the item cannot be read or has changed; NonFiniteError; errors of the model.
        """
        if (features := self._resident(index)) is not None:
            return features
        with self._running:
            if (features := self._resident(index)) is None:
                features = self._from_disk(index) or self._compute(index)
                self._insert(index, features)
        return features

    def dense(self, index: int) -> DenseFeatures:
        """In float32, kept for the last two items that were asked for. Errors as `get`."""
        features = self.get(index)
        with self._lock:
            if index not in self._recent:
                self._recent[index] = features.dense()
                while len(self._recent) > _RECENT:
                    self._recent.popitem(last=False)
            self._recent.move_to_end(index)
            return self._recent[index]

    def prefetch(self, index: int) -> None:
        """Have features computed in the background, before what was asked for earlier."""
        with self._lock:
            if self._closed or index in self._memory:
                return
            self._waiting[index] = None
            self._waiting.move_to_end(index)
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name="dense_ctx session features", daemon=True)
                self._worker.start()
            self._wake.notify()

    def close(self) -> None:
        """Stop the background; what runs ends first."""
        with self._lock:
            self._closed = True
            self._waiting.clear()
            worker = self._worker
            self._wake.notify()
        if worker is not None:
            worker.join()

    def _work(self) -> None:
        while True:
            with self._lock:
                while not self._waiting and not self._closed:
                    self._wake.wait()
                if self._closed:
                    return
                index, _ = self._waiting.popitem()
            try:
                self.get(index)
            except DenseCtxError:
                continue  # whoever asks for the item meets the error

    def _resident(self, index: int) -> ItemFeatures | None:
        with self._lock:
            features = self._memory.get(index)
            if features is not None:
                self._memory.move_to_end(index)
            return features

    def _insert(self, index: int, features: ItemFeatures) -> None:
        if index not in self.samples:
            grid = min(SAMPLE, features.grid[0]), min(SAMPLE, features.grid[1])
            sample = functional.adaptive_avg_pool2d(features.pixels.float(), grid).half()
            with self._lock:
                self.samples[index] = sample
                while len(self.samples) > max(1, int(_SAMPLES * self.budget) // (2 * sample.numel())):
                    del self.samples[next(iter(self.samples))]
        with self._lock:
            self._memory[index] = features
            self.bytes += features.bytes
            while self.bytes > self.budget and len(self._memory) > 1:
                _, old = self._memory.popitem(last=False)
                self.bytes -= old.bytes

    @torch.no_grad()
    def _compute(self, index: int) -> ItemFeatures:
        name = self.source.items[index].name
        features = self.model(resized(self.source.pixels(index), self.encoded(index)), size=self.grid(index))
        self.computed += 1
        if self.computed % _TRIM == 0:
            _trim()
        pixels, patches = (part.to("cpu", torch.float16).contiguous() for part in (features.pixels, features.patches))
        require_finite(f"The features of {name} in float16", "Use another model", pixels=pixels, patches=patches)
        result = ItemFeatures(_apart(pixels), _apart(patches), features.extent)
        if self._disk is not None:
            extent = torch.tensor([features.extent], dtype=torch.float64)
            self._disk.write(self._shard(index), {"pixels": pixels, "patches": patches, "extent": extent})
        return result

    def _from_disk(self, index: int) -> ItemFeatures | None:
        parts = None if self._disk is None else self._disk.read(self._shard(index), ("pixels", "patches", "extent"))
        if parts is None:
            return None
        height, width = parts["extent"][0].tolist()
        return ItemFeatures(_apart(parts["pixels"]), _apart(parts["patches"]), (height, width))

    def _shard(self, index: int) -> str:
        key = json_digest([self.source.digest(index), self.grid(index)])
        return f"{key[:2]}/{key}"


def _apart(tensor: Tensor) -> Tensor:
    """A copy in memory of its own, which goes back to the system with it: a heap would keep the gaps of many."""
    if tensor.nbytes < _LARGE:
        return tensor.clone()
    copy = torch.frombuffer(mmap.mmap(-1, tensor.nbytes), dtype=tensor.dtype).view(tensor.shape)
    return copy.copy_(tensor)


def _trim() -> None:
    """Give back what the heap holds free between small blocks; where its library cannot, it goes on growing a while."""
    if sys.platform == "linux":
        with suppress(AttributeError, OSError):
            ctypes.CDLL(None).malloc_trim(0)


def _stride(model: DenseModel) -> int:
    """Cells as fine as the decoder makes them: without parameters it only enlarges the encoder's."""
    return STRIDE if any(True for _ in model.decoder.parameters()) else max(STRIDE, min(model.backbone.strides))
