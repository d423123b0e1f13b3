"""Segmentation, depth and normals: train a probe on annotated images, score it on others."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import visualize
from ..data.base import ImageSet, Sample
from ..errors import ConfigError, InputError
from ..files import new_file
from ..images import nearest, resized
from ..interfaces import DenseFeatures, Probe
from ..model import DenseModel
from .probes import load_probe_state, make_probe, save_probe
from .protocol import Protocol
from .samples import FeatureCache, model_size, read, shown, stack, training_target
from .tallies import Tally, tally
from .workdir import RunFolder

SHARD = 25  # images to a piece of work
KEEP_EVERY = 200  # training steps between saves
Progress = Callable[[Iterable[Any], int, str], Iterable[Any]]


class DenseEvaluation:
    """One model under one protocol on images.

    Args:
        model, protocol: what and how.
        train, val: the annotated images; `train` may be None where the probe's state is in the folder already.
        folder: where pieces are kept.
        seeds: one probe each.
        cache: bytes of training features kept in memory.
        keep: write predictions.
        progress: wraps an iterable in a bar.
    """

    def __init__(
        self,
        model: DenseModel,
        protocol: Protocol,
        train: ImageSet,
        val: ImageSet,
        folder: RunFolder,
        seeds: tuple[int, ...],
        cache: int,
        keep: bool,
        progress: Progress,
    ) -> None:
        for part, name in ((train, "training"), (val, "validation")):
            if not len(part):
                raise InputError(f"The {name} part of {protocol.data.name} holds no image")
            expected = "segmentation" if protocol.task == "zero-shot" else protocol.task
            if part.kind != expected:
                raise ConfigError(f"{protocol.id} is about {expected}; the data set's targets are {part.kind}")
        self.model, self.protocol, self.train, self.val = model, protocol, train, val
        self.folder, self.seeds, self.keep, self.progress = folder, seeds, keep, progress
        augmented = protocol.train is not None and (
            protocol.train.flip or protocol.train.crop is not None or tuple(protocol.train.scale) != (1.0, 1.0)
        )
        self.cache = FeatureCache(0 if augmented else cache)

    # ------------------------------------------------------------------ training

    def probe(self, seed: int) -> Probe:
        """The seed's probe, trained now or before."""
        path = self.folder.parts / f"probe-{seed}.safetensors"
        self.folder.once(path, lambda: self._train(seed, path))
        probe = self._new(seed)
        probe.load_state_dict(load_probe_state(path))
        return probe

    def _new(self, seed: int) -> Probe:
        return make_probe(self.protocol, seed, self.train.classes)

    def _train(self, seed: int, path: Path) -> None:
        chosen = self._support(seed)
        if self.protocol.train is None:
            probe, labelled = self._new(seed), False
            for index in self.progress(chosen, len(chosen), f"fit, seed {seed}"):
                features, target = self._item(index, 0)
                grid = (features.pixels.shape[-2], features.pixels.shape[-1])
                # a probe of histograms wants the annotation as fine as it is
                fine = probe.pixel_targets
                label = (target if fine else training_target(target, grid, None))[None]
                if _labelled(label):
                    probe.partial_fit(features, label)
                    labelled = True
        else:
            probe, labelled = self._descend(seed, chosen, path)
        if not labelled:
            raise InputError(
                f"The {len(chosen)} training images of {self.protocol.data.name} have no labelled pixel: every "
                "target is ignored or unknown"
            )
        save_probe(probe, path)
        path.with_suffix(".begun").unlink(missing_ok=True)

    def _support(self, seed: int) -> list[int]:
        """Indices of the training images: all, or the protocol's fraction, drawn by seed."""
        count = len(self.train)
        wanted = max(1, round(self.protocol.data.fraction * count))
        return list(range(count)) if wanted >= count else sorted(random.Random(seed).sample(range(count), wanted))

    def _descend(self, seed: int, chosen: list[int], path: Path) -> tuple[Probe, bool]:
        """The trained probe, and whether it saw a label."""
        train = self.protocol.train
        if train is None:
            raise ConfigError(f"{self.protocol.id} trains no probe")
        begun = path.with_suffix(".begun")
        probe, start = self._new(seed), 0
        if begun.exists():
            state = load_probe_state(begun)
            start = int(state.pop("evaluation.step"))
            probe.load_state_dict(state)
        labelled = start > 0
        for step in self.progress(range(start, train.steps), train.steps - start, f"train, seed {seed}"):
            items = [self._item(i, _mix(seed, step, i)) for i in _batch(chosen, train.batch, seed, step)]
            features = _joined([features for features, _ in items])
            grid = (features.pixels.shape[-2], features.pixels.shape[-1])
            target = stack([training_target(target, grid, train) for _, target in items], "Annotations")
            if _labelled(target):
                probe.partial_fit(features, target.to(features.pixels.device))
                labelled = True
            if labelled and (step + 1) % KEEP_EVERY == 0 and step + 1 < train.steps:
                save_probe(probe, begun, {"evaluation.step": torch.tensor(step + 1)})
        return probe, labelled

    def _item(self, index: int, seed: int) -> tuple[DenseFeatures, Tensor]:
        """Features [1, ...] and target of a training image as shown to the model."""
        kept = self.cache.get(index)
        if kept is None:
            item = shown(self.train[index], self.protocol, self.train.kind, seed)
            kept = (read(self.model, item.image[None], self.protocol), item.target)
            self.cache.put(index, *kept)
        return kept

    # ------------------------------------------------------------------ scoring

    def run(self) -> dict[int, Tally]:
        """Train and score; a tally a seed, summed in the order of the shards whoever worked on them."""
        probes = {seed: self.probe(seed) for seed in self.seeds}
        shards = {f"shard-{start:06d}": range(start, min(start + SHARD, len(self.val)))
                  for start in range(0, len(self.val), SHARD)}  # fmt: skip
        todo = list(self.folder.mine(list(shards), lambda name: self._written(shards[name])))
        images = [(name, index) for name in todo for index in shards[name]]
        tallies: dict[int, Tally] = {}
        for name, index in self.progress(images, len(images), "score"):
            if index == shards[name].start:
                tallies = {seed: tally(self.protocol, self.val.classes) for seed in self.seeds}
            self._score(index, probes, tallies)
            if index == shards[name].stop - 1:
                _finish(self.folder, name, {str(seed): tallies[seed].state() for seed in self.seeds})
        self.folder.wait([self.folder.part(name) for name in shards])
        totals = {seed: tally(self.protocol, self.val.classes) for seed in self.seeds}
        for name in shards:
            state = self.folder.done(name)
            for seed in self.seeds:
                totals[seed].merge(state[str(seed)])
        if self.folder.rank == 0:
            self._pictures(probes[self.seeds[0]])
        return totals

    def _written(self, shard: Iterable[int]) -> bool:
        """Whether nothing is to be kept of a shard, or all of it is there (an earlier run may have kept none)."""
        return not self.keep or all(self._place(self.val.names[index]).exists() for index in shard)

    def _place(self, name: str) -> Path:
        labels = self.protocol.task in ("segmentation", "zero-shot")
        return self.folder.predictions / f"{name}{'.png' if labels else '.npy'}"

    def _predict(self, sample: Sample, features: DenseFeatures, probe: Probe) -> tuple[Tensor, Tensor]:
        """Prediction [K, H, W] and target at the size that is scored."""
        target = sample.target
        side = self.protocol.scoring.mask_side
        if side is not None:
            height, width = target.shape[-2:]
            scale = side / min(height, width)
            target = nearest(target, (max(1, round(height * scale)), max(1, round(width * scale))))
        return probe.predict(features, size=(target.shape[-2], target.shape[-1]))[0], target

    def _features(self, sample: Sample) -> DenseFeatures:
        size = model_size((sample.image.shape[-2], sample.image.shape[-1]), self.protocol)
        return read(self.model, resized(sample.image, size)[None], self.protocol)

    def _score(self, index: int, probes: dict[int, Probe], tallies: dict[int, Tally]) -> None:
        sample = self.val[index]
        features = self._features(sample)
        for seed, probe in probes.items():
            prediction, target = self._predict(sample, features, probe)
            if _labelled(target):
                tallies[seed].add(prediction, target)
            if self.keep and seed == self.seeds[0]:
                self._write(sample.name, prediction)

    def _write(self, name: str, prediction: Tensor) -> None:
        path = self._place(name)
        if path.suffix == ".png":
            visualize.save_labels(path, prediction.argmax(0))
        else:
            with new_file(path, sync=False) as partial:  # a file that is there is taken for whole
                np.save(partial, prediction.float().cpu().numpy())

    def _pictures(self, probe: Probe) -> None:
        """Image, annotation and prediction of up to four images, spread over the set."""
        path = self.folder.path / "pictures.png"
        if path.exists():
            return
        rows, names = [], []
        for index in sorted({round(i * (len(self.val) - 1) / 3) for i in range(4)}):
            sample = self.val[index]
            prediction, target = self._predict(sample, self._features(sample), probe)
            height, width = target.shape[-2:]
            picture = (resized(sample.image, (height, width)).permute(1, 2, 0).numpy() * 255).astype(np.uint8)
            rows.append([visualize.fit(item, (240, 320)) for item in (picture, *self._drawn(prediction, target))])
            names.append(sample.name[:12])
        visualize.save_picture(path, visualize.contact_sheet(rows, names, ["image", "annotation", "prediction"]))

    def _drawn(self, prediction: Tensor, target: Tensor) -> tuple[visualize.Picture, visualize.Picture]:
        if self.protocol.task == "normals":
            unit = torch.nn.functional.normalize(prediction.cpu(), dim=0)
            return visualize.normals_picture(target), visualize.normals_picture(unit)
        if self.protocol.task == "depth":
            known = target[target.isfinite()]
            span = (float(known.min()), float(known.max())) if known.numel() else (0.0, 1.0)
            return visualize.heat_picture(target[0], *span), visualize.heat_picture(prediction[0].cpu(), *span)
        colours = visualize.palette(256)
        void = target < 0
        truth = colours[target.clamp_min(0).numpy()]
        truth[void.numpy()] = 255
        return truth, colours[prediction.argmax(0).cpu().numpy()]


def _labelled(target: Tensor) -> bool:
    return bool(target.isfinite().any() if target.is_floating_point() else (target >= 0).any())


def _mix(*numbers: int) -> int:
    """A seed out of several, the same on every machine."""
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:6], "big")


def _batch(chosen: list[int], batch: int, seed: int, step: int) -> list[int]:
    """Indices of a step: whole permutations of the set, one after the other."""
    picked = []
    for place in range(step * batch, (step + 1) * batch):
        epoch, position = divmod(place, len(chosen))
        order = np.random.default_rng(_mix(seed, epoch)).permutation(len(chosen))
        picked.append(chosen[int(order[position])])
    return picked


def _joined(features: list[DenseFeatures]) -> DenseFeatures:
    return DenseFeatures(
        stack([f.pixels[0] for f in features], "Images"),
        stack([f.patches[0] for f in features], "Images"),
        None,
        features[0].extent,
    )


def _finish(folder: RunFolder, name: str, state: Any) -> None:
    from ..files import write_json

    write_json(folder.part(name), state)
