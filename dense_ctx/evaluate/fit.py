"""Fit the probes of an evaluation on images, one per seed, on the training split; they are stored in its folder."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from ..data.base import ImageSet, read_sample
from ..errors import InputError, about
from ..interfaces import DenseFeatures, Probe
from ..persistence.tensors import load_probe, read_sealed, write_sealed
from .job import Job, make_probe
from .samples import FeatureMemory, extract, stack, training_target, training_view
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
        support = self.protocol.support
        self.passes = 0 if support is None else support.passes
        augments = self.passes > 0 or (self.protocol.train is not None and self.protocol.train.augments)
        self.cache = FeatureMemory(0 if augments else cache)

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
        probe = self._by_images(seed, support) if train is None else self._by_steps(seed, support, train, path)
        if probe is None:
            raise InputError(
                f"The {len(support)} training images of {self.protocol.data.name} have no labelled pixel: every "
                "target is ignored or unknown"
            )
        with self.job.blamed():
            write_sealed(path, probe.state_dict())
        _unfinished(path).unlink(missing_ok=True)

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
        views = [(index, mix(seed, n, index)) for n in range(self.passes or 1) for index in support]
        for index, draw in self.job.progress(views, len(views), f"fit, seed {seed}"):
            features, target = self._item(index, draw if self.passes else 0)
            # a probe of histograms takes the annotation at its own resolution
            label = (target if probe.pixel_targets else training_target(target, _grid(features), None))[None]
            if labelled(label):
                with self.job.blamed():
                    probe.partial_fit(features, label)
                fitted = True
        return probe if fitted else None

    def _by_steps(self, seed: int, support: list[int], train: Train, path: Path) -> Probe | None:
        """One `partial_fit` per step, from an earlier run's last saved step on; None where nothing is labelled."""
        probe, start = self._new(seed), 0
        if _unfinished(path).exists():
            state, metadata = read_sealed(_unfinished(path))
            load_probe(probe, state, str(_unfinished(path)))
            start = int(metadata["step"])
        fitted = start > 0
        for step in self.job.progress(range(start, train.steps), train.steps - start, f"train, seed {seed}"):
            items = [self._item(i, mix(seed, step, i)) for i in batch(support, train.batch, seed, step)]
            features = _batch_features([features for features, _ in items])
            targets = [training_target(target, _grid(features), train) for _, target in items]
            target = stack(targets, "Annotations")
            if labelled(target):
                with self.job.blamed():
                    probe.partial_fit(features, target.to(features.pixels.device))
                fitted = True
            if fitted and (step + 1) % SAVE_EVERY == 0 and step + 1 < train.steps:
                with self.job.blamed():
                    write_sealed(_unfinished(path), probe.state_dict(), {"step": str(step + 1)})
        return probe if fitted else None

    def _item(self, index: int, seed: int) -> tuple[DenseFeatures, Tensor]:
        """Features [1, ...] of the view of a training image, and its target."""
        item = self.cache.get(index)
        if item is None:
            sample = read_sample(self.images, index, self.protocol.data.name)
            view = training_view(sample, self.protocol, self.images.kind, seed)
            with about(sample.name):
                item = (extract(self.job.model, view.image[None], self.protocol), view.target)
            self.cache.put(index, *item)
        return item


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


def _unfinished(path: Path) -> Path:
    """The file of a probe that is still in training."""
    return path.with_suffix(".begun")


def _grid(features: DenseFeatures) -> tuple[int, int]:
    return features.pixels.shape[-2], features.pixels.shape[-1]


def _batch_features(features: list[DenseFeatures]) -> DenseFeatures:
    return DenseFeatures(
        stack([f.pixels[0] for f in features], "Images"),
        stack([f.patches[0] for f in features], "Images"),
        None,
        features[0].extent,
    )
