"""Several sets of automatic tasks as one, with disjoint pseudo-classes."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch

from dense_ctx.errors import ConfigError
from dense_ctx.interfaces import SeededDataset

from .pairs import TaskPairs


class JoinedPairs(SeededDataset):
    """The concatenated pairs of all parts; classes of different parts are different.

    Attributes:
        parts: the sets. name: theirs. classes: of all together.
    """

    def __init__(self, parts: Sequence[TaskPairs]) -> None:
        self.parts = tuple(parts)
        self.name = ", ".join(part.name for part in parts)
        self._classes = [0, *accumulate(part.classes for part in parts)]
        self._pairs = [0, *accumulate(len(part) for part in parts)]
        self.classes = self._classes[-1]

    def __len__(self) -> int:
        return self._pairs[-1]

    def sample(self, index: int, seed: int) -> dict[str, Any]:
        """As the part's, the ids of its classes after those of the parts before it."""
        if not 0 <= index < len(self):
            raise IndexError(f"pair {index} of {len(self)}")
        part = bisect_right(self._pairs, index) - 1
        sample = self.parts[part].sample(index - self._pairs[part], seed)
        for key in ("query_labels", "positive_labels"):
            labels = sample[key]
            sample[key] = torch.where(labels < 0, labels, labels + self._classes[part])
        return sample


def open_tasks(
    data: Any,
    size: int = 224,
    scale: tuple[float, float] = (0.4, 1.0),
    crops: bool = False,
    resize: int | None = None,
) -> TaskPairs | JoinedPairs:
    """What `data` names, as `TaskPairs.open`, or a list of such.

    Raises:
        FileError, ConfigError: as `TaskPairs.open`; the list is empty.
    """
    if not isinstance(data, (list, tuple)):
        return TaskPairs.open(data, size, scale, crops, resize)
    if not data:
        raise ConfigError("DIP's data is an empty list; name the folders that `dense-ctx pseudo-label` wrote")
    return JoinedPairs([TaskPairs.open(item, size, scale, crops, resize) for item in data])
