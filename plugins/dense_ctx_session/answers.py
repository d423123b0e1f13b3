"""The answers of a session: labels, probabilities, similarity, what to annotate next, labels through a clip."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from dense_ctx.errors import InputError
from dense_ctx.gateway import gateway
from dense_ctx.interfaces import Size
from dense_ctx.visualize import Picture

from . import pictures
from .annotation import LabelMap
from .base import Base
from .enlarging import enlarged
from .propagation import stale
from .source import picture_of


class Answers(Base):
    """See `Session`."""

    @gateway
    def labels(self, item: int, size: Size | None = None) -> LabelMap:
        """Class ids, uint8 [h, w]: what is drawn, and beside it what is predicted.

        While fewer than two classes are annotated nothing can be predicted, and the rest is 255.

        Args:
            size: (h, w), that of the display; default the item's own. Scores are enlarged to it, and the best taken.

        Raises:
            FileError: the item cannot be read, or has changed on disk.
        """
        shape = self._prepared(item, size)
        with self._lock:
            return self._predictions.labels(item, shape, self._canvas(item))

    @gateway
    def probabilities(self, item: int, size: Size | None = None) -> np.ndarray[Any, np.dtype[np.float32]]:
        """float32 [K, h, w], in the order of `classes`; 0 for a class that is not annotated.

        Raises:
            NotFittedError: fewer than two classes are annotated. FileError: as `labels`.
        """
        shape = self._prepared(item, size)
        with self._lock:
            shares, ids = self._predictions.shares(item, self._canvas(item))
            shares, result = enlarged(shares, shape), torch.zeros(len(self.classes), *shape)
            for place, known in enumerate(self.classes):
                if known.id in ids:
                    result[place] = shares[ids.index(known.id)]
            return result.numpy()

    @gateway
    def uncertainty(self, item: int, size: Size | None = None) -> np.ndarray[Any, np.dtype[np.float32]]:
        """1 minus the margin between the two most probable classes, float32 [h, w] in 0 to 1; 0 where it is drawn.

        Raises: as `probabilities`.
        """
        shape = self._prepared(item, size)
        with self._lock:
            return self._predictions.uncertainty(item, shape, self._canvas(item))

    @gateway
    def similarity(
        self, item: int, x: float, y: float, other: int | None = None, size: Size | None = None
    ) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Cosine of the feature at a pixel of an item to all features of it, or of another item: float32 [h, w].

        Args:
            x, y: in pixels of the item. other: another item. size: (h, w); default that item's own.

        Raises:
            InputError: outside of the image. FileError: as `labels`.
        """
        height, width = self._size(item)
        if not (0 <= x < width and 0 <= y < height):
            raise InputError(f"({x}, {y}) lies outside of the image of {width} x {height} (W x H)")
        target = item if other is None else other
        shape = self._asked(target, size)
        where = (y / height, x / width)
        return pictures.similarity(self._store.get(item), where, self._store.get(target), shape)

    @gateway
    def pca(self, item: int, size: Size | None = None) -> Picture:
        """The features' three principal components as RGB, uint8 [h, w, 3].

        The components are those of the first item, so that colours mean the same for all items.
        """
        shape = self._asked(item, size)
        return pictures.pca_picture(self._store.get(0), self._store.get(item), shape)

    @gateway
    def picture(self, item: int) -> Picture:
        """The item itself, uint8 [H, W, 3]. Raises FileError: it cannot be read, or has changed on disk."""
        self._size(item)
        return picture_of(self._source, item)

    @gateway
    def prefetch(self, item: int) -> None:
        """Have the features of an item computed in the background, before those asked for earlier; returns at once."""
        self._size(item)
        self._store.prefetch(item)

    @gateway
    def next_item(self) -> int:
        """The item to annotate next: without annotation and mark, and with the greatest mean uncertainty.

        Items count whose features are known; while none is, or nothing can be predicted, it is the first one.

        Raises:
            InputError: every item is annotated or marked.
        """
        with self._lock:
            done = {*self._work.state.drawings, *self._work.marks}
            rest = [index for index in range(len(self.items)) if index not in done]
            if not rest:
                raise InputError("Every item is annotated, accepted or rejected: there is none to annotate next")
            return self._predictions.most_uncertain(rest)

    @gateway
    def pending(self) -> list[int]:
        """Frames of a clip that `propagate` would label: annotated anew, corrected, or never labelled."""
        with self._lock:
            versions = self._predictions.versions()
            if not versions:
                return []
            groups = stale(self._predictions.votes, versions, range(len(self.items)), len(self.items))
            return sorted(index for frames in groups.values() for index in frames)

    @gateway
    def propagate(self, start: int | None = None, stop: int | None = None) -> Iterator[int]:
        """Carry the labels of annotated frames through a clip; yields each frame when its labels are there.

        Each frame takes them from the annotated frame that is nearest, before or behind it. Frames whose nearest
        annotation has not changed since are left as they are: a correction on a frame changes those around it alone.

        Args:
            start, stop: frames from start to before stop; default all.

        Raises:
            InputError: no clip; a range that does not exist. NotFittedError: fewer than two classes are annotated.
        """
        if not self.is_clip:
            raise InputError("propagate is of a clip; images are predicted one by one")
        first, last = 0 if start is None else start, len(self.items) if stop is None else stop
        if not 0 <= first < last <= len(self.items):
            raise InputError(f"Frames {first} to before {last}; the clip has {len(self.items)}")
        with self._lock:
            self._predictions.require_fitted()
        return self._propagated(range(first, last))

    def _propagated(self, frames: range) -> Iterator[int]:
        yield from self._predictions.propagate(frames, self._canvas, self._lock)
        with self._lock:
            if self._folder is not None:
                self._save_votes(self._folder.path)

    def _prepared(self, item: int, size: Size | None) -> Size:
        """The size asked for; the item's features are there, if its answer needs them. It holds no lock meanwhile."""
        shape = self._asked(item, size)
        with self._lock:
            carried = self._predictions.carried(item)
        if not carried:
            self._store.get(item)
        return shape

    def _asked(self, item: int, size: Size | None) -> Size:
        own = self._size(item)
        if size is None:
            return own
        if len(size) != 2 or min(size) < 1 or max(size) > 1 << 14:
            raise InputError(f"size={size!r:.60} is (h, w), each 1 to {1 << 14}")
        return int(size[0]), int(size[1])
