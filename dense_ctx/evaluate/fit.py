"""Fit the probes of an evaluation on images, one per seed, on the training split; they are stored in its folder."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from ..data.base import ImageSet, read_sample
from ..errors import InputError
from ..interfaces import DenseFeatures, Probe
from ..persistence.tensors import load_probe, read_sealed, write_sealed
from .job import Job, make_probe
from .samples import encoded, stack, together, training_target, training_view
from .sections import Train

SAVE_EVERY = 200  # training steps


class ProbeFit:
    """Fits the protocol's probe on annotated images.

    Args:
        images: the training split.
        cache: bytes of features kept in memory, where nothing is augmented.
        lists: names of the training images of each seed, where the protocol has lists.
    """

    def __init__(
        self, job: Job, images: ImageSet, cache: int, lists: Mapping[int, Sequence[str]] | None = None
    ) -> None:
        self.job, self.protocol, self.images, self.lists = job, job.protocol, images, lists or {}
        self.passes = 0 if self.protocol.support is None else self.protocol.support.passes
        augments = self.passes > 0 or (self.protocol.train is not None and self.protocol.train.augments)
        self._held: dict[tuple[int, ...], list[tuple[Tensor, DenseFeatures]]] = {}
        self._room = 0 if augments else cache
        # a step's images are together once, and its features are of more use again
        self.together = 1 if self._room and self.protocol.train else together(job.model)

    def probe(self, seed: int) -> Probe:
        """The seed's probe: fitted, or read from an earlier run.

        Raises:
            InputError: no training image has a labelled pixel.
        """
        probe = self._new(seed)
        if not probe.learns:
            return probe
        path = self.job.folder.parts / f"probe-{seed}.safetensors"
        self.job.folder.once(path, lambda: self._fit(seed, path))
        load_probe(probe, read_sealed(path)[0], str(path))
        return probe

    def _new(self, seed: int) -> Probe:
        return make_probe(self.protocol, seed, self.images.classes)

    def _fit(self, seed: int, path: Path) -> None:
        support, train = self._support(seed), self.protocol.train
        begun = path.with_suffix(".begun")  # of a probe that is still in training
        probe = self._by_images(seed, support) if train is None else self._by_steps(seed, support, train, begun)
        if probe is None:
            raise InputError(
                f"The {len(support)} training images of {self.protocol.data.name} have no labelled pixel: every "
                "target is ignored or unknown"
            )
        with self.job.blamed():
            write_sealed(path, probe.state_dict())
        begun.unlink(missing_ok=True)

    def _support(self, seed: int) -> list[int]:
        """Indices of the training images: all, the seed's list, or a seeded sample of the protocol's fraction."""
        if seed in self.lists:
            index_of = {Path(name).stem: index for index, name in enumerate(self.images.names)}
            return [index_of[name] for name in self.lists[seed]]
        count = len(self.images)
        size = max(1, round(self.protocol.data.fraction * count))
        return list(range(count)) if size >= count else sorted(random.Random(seed).sample(range(count), size))

    def _by_images(self, seed: int, support: list[int]) -> Probe | None:
        """One `partial_fit` per image; None where nothing is labelled."""
        probe, fitted = self._new(seed), False
        views = [(i, mix(seed, n, i) if self.passes else 0) for n in range(self.passes or 1) for i in support]
        for target, features in self.job.progress(self._items(views), len(views), f"fit, seed {seed}"):
            # a probe of histograms takes the annotation at its own resolution
            label = (target if probe.pixel_targets else training_target(target, _grid(features), None))[None]
            if labelled(label):
                with self.job.blamed():
                    probe.partial_fit(features, label)
                fitted = True
        return probe if fitted else None

    def _by_steps(self, seed: int, support: list[int], train: Train, begun: Path) -> Probe | None:
        """One `partial_fit` per step, from an earlier run's last saved step on; None where nothing is labelled."""
        probe, start = self._new(seed), 0
        if begun.exists():
            state, metadata = read_sealed(begun)
            load_probe(probe, state, str(begun))
            start = int(metadata["step"])
        fitted = start > 0
        for step in self.job.progress(range(start, train.steps), train.steps - start, f"train, seed {seed}"):
            items = list(self._items([(i, mix(seed, step, i)) for i in batch(support, train.batch, seed, step)]))
            features = _batch_features([features for _, features in items])
            targets = [training_target(target, _grid(features), train) for target, _ in items]
            target = stack(targets, "Annotations")
            if labelled(target):
                with self.job.blamed():
                    probe.partial_fit(features, target.to(features.pixels.device))
                fitted = True
            if fitted and (step + 1) % SAVE_EVERY == 0 and step + 1 < train.steps:
                with self.job.blamed():
                    write_sealed(begun, probe.state_dict(), {"step": str(step + 1)})
        return probe if fitted else None

    def _items(self, views: Sequence[tuple[int, int]]) -> Iterator[tuple[Tensor, DenseFeatures]]:
        """Targets of views of training images, each (index, seed), and their features [1, ...]."""
        for start in range(0, len(views), self.together):
            some = views[start : start + self.together]
            key = tuple(index for index, _ in some)  # rounding depends on what is in a batch
            items = self._held.get(key) or list(encoded(self.job.model, map(self._view, some), self.protocol))
            size = sum(t.numel() * t.element_size() for target, f in items for t in (f.pixels, f.patches, target))
            if key not in self._held and size <= self._room:
                self._held[key] = items
                self._room -= size
            yield from items

    def _view(self, view: tuple[int, int]) -> tuple[str, Tensor, Tensor]:
        sample = read_sample(self.images, view[0], self.protocol.data.name)
        sample = training_view(sample, self.protocol, self.images.kind, view[1])
        return sample.name, sample.image, sample.target


def labelled(target: Tensor) -> bool:
    """Whether a target has any known pixel."""
    return bool(target.isfinite().any() if target.is_floating_point() else (target >= 0).any())


def mix(*numbers: int) -> int:
    """Combine numbers to a seed, the same on every machine."""
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:6], "big")


def batch(support: list[int], size: int, seed: int, step: int) -> list[int]:
    """Indices of the images of a step; the steps run through one permutation of the support after the other."""
    indices = []
    for number in range(step * size, (step + 1) * size):
        epoch, position = divmod(number, len(support))
        order = np.random.default_rng(mix(seed, epoch)).permutation(len(support))
        indices.append(support[int(order[position])])
    return indices


def _grid(features: DenseFeatures) -> tuple[int, int]:
    return features.pixels.shape[-2], features.pixels.shape[-1]


def _batch_features(features: list[DenseFeatures]) -> DenseFeatures:
    return DenseFeatures(
        stack([f.pixels[0] for f in features], "Images"),
        stack([f.patches[0] for f in features], "Images"),
        None,
        features[0].extent,
    )
