"""Segmentation, depth and normals: fit a probe on annotated images and score it on others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .. import visualize
from ..data.base import ImageSet, Sample, read_sample
from ..errors import InputError
from ..files import new_file
from ..images import nearest, resized
from ..interfaces import DenseFeatures, Metric, Probe
from ..numerics import require_finite
from ..progress import ahead
from .fit import ProbeFit, labelled
from .job import Job, Scenes, Totals
from .samples import BATCH, encoded, model_size, together

SHARD = 3 * BATCH  # images scored before their sums are stored: batches are the same in whichever process


class ImageEvaluation:
    """An evaluation on images.

    Args:
        train, val: the annotated images to fit on and to score on.
        cache, lists: see `ProbeFit`.

    Raises:
        InputError: a split without an image.
    """

    def __init__(
        self, job: Job, train: ImageSet, val: ImageSet, cache: int, lists: Mapping[int, Sequence[str]] | None = None
    ) -> None:
        for part, name in ((train, "training"), (val, "validation")):
            if not len(part):
                raise InputError(f"The {name} part of {job.protocol.data.name} holds no image")
        self.job, self.val = job, val
        self.fit = ProbeFit(job, train, cache, lists)
        self.labels = job.scorer.target in ("segmentation", "instances")

    def run(self) -> Totals:
        """Fit and score; sums are in the order of the shards, whichever process scored them."""
        probes = {seed: self.fit.probe(seed) for seed in self.job.seeds}
        starts = range(0, len(self.val), SHARD)
        shards = {f"shard-{start:06d}": range(start, min(start + SHARD, len(self.val))) for start in starts}
        # an earlier run may have written no predictions
        files = {key: [self._path(self.val.names[i]) for i in shard if self.job.keep] for key, shard in shards.items()}
        images = [(name, index) for name in self.job.folder.share(files) for index in shards[name]]
        metrics: dict[int, Metric] = {}
        samples = ahead(self._read, [index for _, index in images], 1 + together(self.job.model))
        scenes, pairs = Scenes(), encoded(self.job.model, samples, self.job.protocol)
        for name, index in self.job.progress(images, len(images), "score"):
            if index == shards[name].start:
                metrics, scenes = self.job.metrics(self.val.classes), Scenes()
            scenes |= self._score(*next(pairs), probes, metrics)
            if index == shards[name].stop - 1:
                self.job.write(name, metrics, scenes)
        totals = self.job.totals(list(shards), self.val.classes)
        if self.job.folder.rank == 0:
            self._pictures(probes[self.job.seeds[0]])
        return totals

    def _read(self, index: int) -> tuple[str, Tensor, Sample]:
        """A sample's name, its image at the size that the model encodes, and itself."""
        sample = read_sample(self.val, index, self.job.protocol.data.name)
        size = model_size((sample.image.shape[-2], sample.image.shape[-1]), self.job.protocol)
        return sample.name, resized(sample.image, size), sample

    def _path(self, name: str) -> Path:
        return self.job.folder.predictions / f"{name}{'.png' if self.labels else '.npy'}"

    def _predict(self, sample: Sample, features: DenseFeatures, probe: Probe) -> tuple[Tensor, Tensor]:
        """Prediction [K, H, W] and target at the size at which they are scored."""
        target = sample.target
        side = self.job.protocol.scoring.mask_side
        if side == -1:
            target = nearest(target, model_size((sample.image.shape[-2], sample.image.shape[-1]), self.job.protocol))
        elif side is not None:
            height, width = target.shape[-2:]
            scale = side / min(height, width)
            target = nearest(target, (max(1, round(height * scale)), max(1, round(width * scale))))
        with self.job.blamed():
            prediction = probe.predict(features, size=(target.shape[-2], target.shape[-1]))[0]
        require_finite(f"{sample.name}: the prediction of {self.job.protocol.probe.name}", values=prediction)
        return prediction, target

    def _score(
        self, sample: Sample, features: DenseFeatures, probes: dict[int, Probe], metrics: dict[int, Metric]
    ) -> Scenes:
        own = dict[int, Metric]()
        for seed, probe in probes.items():
            prediction, target = self._predict(sample, features, probe)
            if labelled(target):
                own[seed] = self.job.scorer.new(self.val.classes)
                with self.job.scorer.blamed():
                    own[seed].update(prediction, target)
                    metrics[seed].merge(self.job.scorer.state(own[seed]))
            if self.job.keep and seed == self.job.seeds[0]:
                self._write(sample.name, prediction)
        return {sample.name: self.job.headlines(own)} if own else {}

    def _write(self, name: str, prediction: Tensor) -> None:
        path = self._path(name)
        if self.labels:
            visualize.save_labels(path, prediction.argmax(0))
        else:
            with new_file(path, sync=False) as partial:  # an existing file counts as complete
                np.save(partial, prediction.float().cpu().numpy())

    def _pictures(self, probe: Probe) -> None:
        """Save image, annotation and prediction of up to four images, spread over the set."""
        path = self.job.folder.path / "pictures.png"
        if path.exists():
            return
        rows, names = [], []
        samples = map(self._read, sorted({round(i * (len(self.val) - 1) / 3) for i in range(4)}))
        for sample, features in encoded(self.job.model, samples, self.job.protocol):
            prediction, target = self._predict(sample, features, probe)
            height, width = target.shape[-2:]
            picture = (resized(sample.image, (height, width)).permute(1, 2, 0).numpy() * 255).astype(np.uint8)
            pair = comparison(self.job.scorer.target, target, prediction.cpu())
            rows.append([visualize.fit(item, (240, 320)) for item in (picture, *pair)])
            names.append(sample.name[:12])
        visualize.save_picture(path, visualize.contact_sheet(rows, names, ["image", "annotation", "prediction"]))


def comparison(kind: str, target: Tensor, prediction: Tensor) -> tuple[visualize.Picture, visualize.Picture]:
    """Target and prediction of one kind as pictures in the same colours."""
    if kind == "normals":
        unit = torch.nn.functional.normalize(prediction, dim=0)
        return visualize.normals_picture(target), visualize.normals_picture(unit)
    if kind == "depth":
        valid = target[target.isfinite()]
        span = (float(valid.min()), float(valid.max())) if valid.numel() else (0.0, 1.0)
        return visualize.heat_picture(target[0], *span), visualize.heat_picture(prediction[0], *span)
    colours = visualize.palette(max(256, int(target.max()) + 1, len(prediction)))
    truth = colours[target.clamp_min(0).numpy()]
    truth[(target < 0).numpy()] = 255
    return truth, colours[prediction.argmax(0).numpy()]
