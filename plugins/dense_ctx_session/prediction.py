"""What is predicted for an item: by the reader, by labels propagated to it, or, on a corrected frame, by both."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from dense_ctx.config import Part
from dense_ctx.errors import NotFittedError
from dense_ctx.images import nearest
from dense_ctx.interfaces import DenseFeatures, Size

from .annotation import IGNORE, Canvas, LabelMap
from .enlarging import best_classes, enlarged
from .features import FeatureStore
from .propagation import Chains, Votes, stale
from .reading import Reader, cells_of

REACH = 32.0  # pixels: how far a correction acts on a frame with propagated labels


class Predictions:
    """Predictions of all items, kept up to date with their canvases. Its caller sees to it that one thread is in it.

    Args:
        method: the reader's probe. store: of the features.

    Attributes: votes: propagated labels, by frame. class_ids: of the classes that there are.
    """

    def __init__(self, method: Part, store: FeatureStore) -> None:
        self.votes: dict[int, Votes] = {}
        self.class_ids: set[int] = set()
        self._reader, self._store = Reader(method, store), store
        self._changed: dict[int, Canvas] = {}
        self._versions: dict[int, str | None] = {}  # of annotated items; None: not worked out yet
        self._labels: dict[int, LabelMap] = {}
        self._chains = Chains(store)

    def annotate(self, item: int, canvas: Canvas) -> None:
        """Take notice of an item's changed canvas."""
        self._changed[item] = canvas
        self._versions.pop(item, None)
        if (canvas.labels != IGNORE).any():
            self._versions[item], self._labels[item] = None, canvas.labels

    def versions(self) -> dict[int, str]:
        """What identifies the annotation of each annotated item."""
        for item, known in self._versions.items():
            if known is None:
                self._versions[item] = hashlib.sha256(self._labels[item].tobytes()).hexdigest()[:16]
        return {item: version for item, version in self._versions.items() if version is not None}

    def require_fitted(self) -> None:
        """Raise NotFittedError while fewer than two classes are annotated."""
        self._learn()
        self._reader.probe()

    def carried(self, item: int) -> bool:
        """Whether an item shows the labels that were propagated to it, and needs no features."""
        return item not in self._versions and self._propagated(item) is not None

    def shares(self, item: int, canvas: Canvas) -> tuple[Tensor, list[int]]:
        """Probabilities [K, h, w] on a grid, and the class ids of their channels; errors as `require_fitted`."""
        votes = self._propagated(item)
        if votes is not None and self.carried(item):
            return votes.normalized(), list(votes.classes)
        self._learn()
        live = self._reader.predict(self._store.dense(item))
        return (live, self._reader.classes) if votes is None else self._corrected(item, live, votes, canvas)

    def _corrected(self, item: int, live: Tensor, votes: Votes, canvas: Canvas) -> tuple[Tensor, list[int]]:
        """Near what is drawn on a frame the reader's opinion, elsewhere the labels that were propagated to it."""
        grid = self._store.grid(item)
        height, width = canvas.labels.shape
        strokes = np.zeros(grid[0] * grid[1], dtype=bool)
        strokes[cells_of(np.flatnonzero(canvas.labels != IGNORE), (height, width), grid)] = True
        distance = distance_transform_edt(~strokes.reshape(grid), sampling=(height / grid[0], width / grid[1]))
        near = torch.from_numpy(np.exp(-((distance / REACH) ** 2))).float()
        carried = enlarged(votes.normalized(), grid)
        ids = sorted({*votes.classes, *self._reader.classes})
        mixed = torch.zeros(len(ids), *grid)
        for own, part, weight in ((votes.classes, carried, 1 - near), (self._reader.classes, live, near)):
            for place, label in enumerate(own):
                mixed[ids.index(label)] += weight * part[place]
        return mixed, ids

    def labels(self, item: int, size: Size, canvas: Canvas) -> LabelMap:
        """Class ids, uint8 [*size]: what is drawn, and else the most probable; 255 while nothing can be predicted."""
        strokes = nearest(torch.from_numpy(canvas.labels), size).numpy()
        try:
            shares, ids = self.shares(item, canvas)
        except NotFittedError:
            return strokes.copy()
        best = np.array(ids, dtype=np.uint8)[best_classes(shares, size).numpy()]
        return np.where(strokes == IGNORE, best, strokes)

    def uncertainty(self, item: int, size: Size, canvas: Canvas) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        """1 minus the margin of the two best, [*size]; 0 where it is drawn."""
        shares, _ = self.shares(item, canvas)
        strokes = nearest(torch.from_numpy(canvas.labels), size) != IGNORE
        return torch.where(strokes, 0.0, _uncertain(enlarged(shares, size))).numpy()

    def most_uncertain(self, items: Sequence[int]) -> int:
        """Of some items the one of the greatest mean uncertainty; the first while nothing can be predicted."""
        try:
            self.require_fitted()
        except NotFittedError:
            return items[0]
        scores: dict[int, float] = {}
        for item in items:
            if (votes := self._propagated(item)) is not None:
                scores[item] = float(_uncertain(votes.normalized()).mean())
            elif (sample := self._store.samples.get(item)) is not None:
                features = DenseFeatures(sample.float(), sample.float())
                scores[item] = float(_uncertain(self._reader.predict(features)).mean())
        return max(scores, key=lambda item: scores[item]) if scores else items[0]

    def propagate(
        self, frames: range, canvas: Callable[[int], Canvas], lock: AbstractContextManager[object]
    ) -> Iterator[int]:
        """Label the frames of a range that are not up to date; yields each. The lock is held between steps alone."""
        count = len(self._store.source.items)
        with lock:
            versions = self.versions()
            groups = stale(self.votes, versions, frames, count)
        for origin, indices in sorted(groups.items()):
            for step in (1, -1):
                rest = sorted((i for i in indices if (i - origin) * step > 0), key=lambda i: i * step)
                if not rest:
                    continue
                with lock:
                    size = self._store.source.items[origin].height, self._store.source.items[origin].width
                    labels = torch.from_numpy(self.labels(origin, size, canvas(origin))).long()
                for index, votes in self._chains.run(origin, versions[origin], labels, step, rest):
                    with lock:
                        if self.versions().get(origin) != versions[origin]:
                            break  # it was annotated meanwhile: what follows from it is out of date
                        self.votes[index] = votes
                    yield index

    def _propagated(self, item: int) -> Votes | None:
        """The labels that were propagated to a frame from one that is still annotated, of the classes still there."""
        votes = self.votes.get(item)
        if votes is None or votes.origin not in self._versions:
            return None
        return votes.of(self.class_ids)

    def begin_class(self, class_id: int) -> bool:
        """Drop propagated labels of an earlier class with this id; whether there were any."""
        before = len(self.votes)
        self.votes = {index: votes for index, votes in self.votes.items() if class_id not in votes.classes}
        return len(self.votes) < before

    def _learn(self) -> None:
        for item in list(self._changed):
            self._reader.learn(item, self._changed[item].labels)
            del self._changed[item]


def _uncertain(shares: Tensor) -> Tensor:
    best = shares.topk(2, dim=0).values
    return (1 - (best[0] - best[1])).clamp(0, 1)
