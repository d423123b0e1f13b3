"""Order and randomness of the samples, as pure functions of seed and step, so that resuming is exact.

The samples form one endless stream: epoch e is the permutation of (seed, e), and step s takes the positions
[s * batch_size, (s + 1) * batch_size). A batch may extend into the next epoch; each epoch has every sample once.
"""

from __future__ import annotations

import copy
import hashlib
import os
import random
import sys
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ..device import launched
from ..errors import InputError
from ..interfaces import EpochDataset, Objective, SeededDataset

Key: TypeAlias = "tuple[int, int]"  # (epoch, index)


def mix(*parts: int | str) -> int:
    """Hash numbers and strings to a seed in [0, 2**63), the same on every machine and version."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big") >> 1


def seed_all(seed: int) -> None:
    """Seed Python, NumPy and torch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


class Order:
    """The (epoch, index) keys of the samples of this process, for each accumulated part of each step.

    Args:
        samples: in the data set. seed: of the run.
        batch_size: samples of a step, over all processes and parts. accumulate: parts of a step.
        rank, world: index of this process, and number of processes.

    Raises:
        InputError: the batch cannot be divided equally.
    """

    def __init__(self, samples: int, seed: int, batch_size: int, accumulate: int, rank: int, world: int) -> None:
        if batch_size % (accumulate * world):
            raise InputError(
                f"batch_size {batch_size} cannot be divided among {world} processes x {accumulate} accumulated parts; "
                f"make it a multiple of {accumulate * world}"
            )
        self.samples, self.seed, self.batch_size = samples, seed, batch_size
        self.accumulate, self.rank, self.world = accumulate, rank, world
        self.start, self.stop = 0, 0
        self._epoch, self._permutation = -1, np.empty(0, dtype=np.int64)

    def between(self, start: int, stop: int) -> Order:
        """Restrict iteration to the steps start ... stop - 1, counted from 0; returns itself."""
        self.start, self.stop = start, stop
        return self

    def __len__(self) -> int:
        return (self.stop - self.start) * self.accumulate

    def __iter__(self) -> Iterator[list[Key]]:
        for step in range(self.start, self.stop):
            for part in range(self.accumulate):
                yield self.keys(step, part)

    def keys(self, step: int, part: int) -> list[Key]:
        """The keys of this process in one part of one step."""
        size = self.batch_size // (self.accumulate * self.world)
        first = step * self.batch_size + (part * self.world + self.rank) * size
        return [self._key(position) for position in range(first, first + size)]

    def _key(self, position: int) -> Key:
        epoch, offset = divmod(position, self.samples)
        if epoch != self._epoch:
            # NumPy guarantees RandomState's streams for ever, not those of its Generator; nor does torch its own
            seeds = np.array([mix(self.seed, "order", epoch, word) % 2**32 for word in range(4)], dtype=np.uint32)
            self._permutation = np.random.RandomState(seeds).permutation(self.samples)
            self._epoch = epoch
        return epoch, int(self._permutation[offset])


class Samples(Dataset[Any]):
    """A data set indexed by (epoch, index), which with the run's seed determine all randomness."""

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset, self.seed, self.epoch = dataset, seed, -1

    def __getitem__(self, key: Key) -> tuple[int, Any]:
        epoch, index = key
        seed = mix(self.seed, "sample", epoch, index)
        if epoch != self.epoch and isinstance(self.dataset, EpochDataset):
            self.dataset.set_epoch(epoch)
        self.epoch = epoch
        if isinstance(self.dataset, SeededDataset):
            return index, self.dataset.sample(index, seed)
        seed_all(seed)
        return index, self.dataset[index]


class _Collate:
    """The objective's collation, with the indices of the batch."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective

    def __call__(self, items: list[tuple[int, Any]]) -> tuple[list[int], Any]:
        return [index for index, _ in items], self.objective.collate([sample for _, sample in items])

    def __getstate__(self) -> dict[str, Any]:
        # pickled for spawned workers: collation needs the objective's settings, not its weights on an accelerator
        bare = copy.copy(self.objective)
        bare.__dict__ = {**bare.__dict__, "_parameters": {}, "_buffers": {}, "_modules": {}}
        return {"objective": bare}


def _ignore_signals(_: int) -> None:
    # Ctrl-C and a scheduler's SIGTERM reach the whole process group, but the current step still needs its batch
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def count(dataset: Any) -> int:
    """Number of samples.

    Raises:
        InputError: the data set has no length, or is empty.
    """
    try:
        samples = len(dataset)
    except TypeError:
        samples = 0
    if samples < 1 or isinstance(dataset, IterableDataset):
        raise InputError(
            f"{type(dataset).__name__} has no samples, or no length: the loop indexes its data set, which therefore "
            "needs __len__ and __getitem__"
        )
    return samples


def reader_count(device: torch.device) -> int:
    """Worker processes beside one that trains on `device`: its share of the cores, less one, at most 8; 0 on a CPU."""
    if device.type == "cpu" or sys.platform != "linux":  # elsewhere a script would be run again in each worker
        return 0
    return max(1, min(8, len(os.sched_getaffinity(0)) // max(1, int(launched("LOCAL_WORLD_SIZE", "1"))) - 1))


def loader(
    dataset: Any, objective: Objective, order: Order, seed: int, workers: int | None, device: torch.device
) -> DataLoader[Any]:
    """A loader of (indices, batch) in the given order, for a step on `device`; see `TrainConfig.workers`."""
    workers = reader_count(device) if workers is None else workers
    return DataLoader(
        Samples(dataset, seed),
        batch_sampler=order,
        collate_fn=_Collate(objective),
        num_workers=workers,
        pin_memory=device.type == "cuda",
        worker_init_fn=_ignore_signals if workers else None,
    )
