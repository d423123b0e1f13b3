"""From annotation to predictions: a ridge regression kept up to date by rank, or another probe fitted again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from dense_ctx.config import Part
from dense_ctx.errors import NotFittedError
from dense_ctx.interfaces import DenseFeatures, Probe, Size
from dense_ctx.numerics import require_finite
from dense_ctx.plugins import blamed, registry

from .annotation import IGNORE, LIMIT, LabelMap
from .features import FeatureStore

Indices = np.ndarray[Any, np.dtype[np.int64]]

RIDGE = "ridge"


def cells_of(pixels: Indices, size: Size, grid: Size) -> Indices:
    """The numbers of the cells that the centres of pixels lie in; both counted row by row."""
    rows, columns = np.divmod(pixels, size[1])
    return _cell(rows, size[0], grid[0]) * grid[1] + _cell(columns, size[1], grid[1])


def _cell(places: Indices, pixels: int, cells: int) -> Indices:
    return ((2 * places + 1) * cells) // (2 * pixels)


class Reader:
    """Learns from label maps of items, predicts classes. What it has learnt follows the maps exactly.

    Args:
        part: a registered probe.

    The annotated pixels of a cell count as so many rows of the cell's features. With `ridge` the sums X'X and X'Y (in
    float64) are changed by the rows of the pixels that changed; the weights are whole numbers, so that what is taken
    away leaves nothing behind but rounding in the sixteenth digit. Any other probe is fitted again, on the class that
    most pixels of a cell have.
    """

    def __init__(self, part: Part, store: FeatureStore) -> None:
        self.part, self._store = part, store
        # an option that does not exist fails now
        registry().create("probe", part.name, task="segmentation", **part.args)
        self._probe: Probe | None = None
        self._learnt: dict[int, LabelMap] = {}
        self._gram: Tensor | None = None
        self._cross = torch.zeros(0, 0)
        self.counts = np.zeros(LIMIT, dtype=np.int64)  # annotated pixels of each class

    @property
    def classes(self) -> list[int]:
        """Ids of the classes that have an annotated pixel, in the order of the probe's channels."""
        return [int(i) for i in np.flatnonzero(self.counts)]

    def learn(self, index: int, labels: LabelMap) -> None:
        """Follow the label map of an item, uint8 [H, W]; errors as `FeatureStore.get`, and nothing is learnt then."""
        old = self._learnt.get(index)
        old = np.full_like(labels, IGNORE) if old is None else old
        changed = np.flatnonzero(labels.reshape(-1) != old.reshape(-1))
        if not changed.size:
            return
        before, after = old.reshape(-1)[changed], labels.reshape(-1)[changed]
        if self.part.name == RIDGE:
            self._update(index, (labels.shape[0], labels.shape[1]), changed, before, after)
        self.counts += np.bincount(after, minlength=256)[:LIMIT] - np.bincount(before, minlength=256)[:LIMIT]
        self._learnt.pop(index, None)
        if (labels != IGNORE).any():
            self._learnt[index] = labels.copy()
        if not self.counts.any():
            self._gram = None  # no rounding stays either
        self._probe = None

    def _update(self, index: int, size: Size, changed: Indices, before: LabelMap, after: LabelMap) -> None:
        features = self._store.get(index)
        cells, local = np.unique(cells_of(changed, size, features.grid), return_inverse=True)
        used, classes = np.unique(np.concatenate([before, after]), return_inverse=True)
        # how many pixels of a cell became of a class, less those that were
        slots = np.concatenate([local, local]) * len(used) + classes
        signs = np.repeat([-1.0, 1.0], len(local))
        change = torch.from_numpy(np.bincount(slots, signs, len(cells) * len(used)).reshape(len(cells), len(used)))
        valid = torch.from_numpy(used != IGNORE)
        change, columns = change[:, valid], torch.from_numpy(used)[valid].long()
        rows = features.pixels[0].flatten(1)[:, torch.from_numpy(cells)].double()
        rows = torch.cat([rows, torch.ones(1, len(cells), dtype=torch.float64)])  # [D + 1, cells]
        if self._gram is None:
            self._gram = torch.zeros(len(rows), len(rows), dtype=torch.float64)
            self._cross = torch.zeros(len(rows), LIMIT, dtype=torch.float64)
        self._cross[:, columns] += rows @ change
        self._gram += (rows * change.sum(1)) @ rows.T

    def probe(self) -> Probe:
        """The probe fitted on what was learnt.

        Raises:
            NotFittedError: fewer than two classes are annotated.
        """
        classes = self.classes
        if len(classes) < 2:
            raise NotFittedError(
                f"{len(classes) or 'No'} class is annotated: draw a stroke of two classes at least (the background is "
                "one)"
            )
        if self._probe is None:
            probe = cast(Probe, registry().create("probe", self.part.name, task="segmentation", **self.part.args))
            with blamed("probe", self.part.name):
                if self.part.name == RIDGE:
                    probe.load_state_dict({"gram": cast(Tensor, self._gram), "cross": self._cross[:, classes]})
                else:
                    for index in sorted(self._learnt):
                        features = self._store.dense(index)
                        probe.partial_fit(features, self._targets(index, self._store.grid(index), classes))
            self._probe = probe
        return self._probe

    def _targets(self, index: int, grid: Size, classes: Sequence[int]) -> Tensor:
        """int64 [1, h, w]: the class that most annotated pixels of a cell have, -1 without one."""
        labels = self._learnt[index]
        cells = cells_of(np.arange(labels.size), (labels.shape[0], labels.shape[1]), grid)
        flat = labels.reshape(-1)
        votes = np.stack([np.bincount(cells[flat == i], minlength=grid[0] * grid[1]) for i in classes])
        best = np.where(votes.any(0), votes.argmax(0), -1)
        return torch.from_numpy(best.reshape(1, *grid).astype(np.int64))

    def predict(self, features: DenseFeatures) -> Tensor:
        """Probabilities [K, h, w] on the features' grid, in the order of `classes`; errors as `probe`."""
        probe = self.probe()
        with blamed("probe", self.part.name), torch.no_grad():
            scores = probe.predict(features)
        require_finite(f"The prediction of the probe {self.part.name!r}", "Clear the annotation", values=scores)
        return scores[0]
