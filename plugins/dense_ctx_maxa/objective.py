"""MaxaObjective: train a head on a frozen backbone's features for one task, and score it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

from dense_ctx.config import Output
from dense_ctx.data import ImageSet
from dense_ctx.data.features import FeatureCache, cache_features
from dense_ctx.errors import ConfigError, InputError, refuse_idle
from dense_ctx.interfaces import Batch, Features, Losses, ScoredObjective, Size
from dense_ctx.model import DenseModel
from dense_ctx.progress import ahead

from .dataset import TaskData, open_images
from .losses import sample_pixels
from .tasks import check_outputs, create_task

SCORED = 8  # images at once
PIXELS = 256


class MaxaObjective(ScoredObjective):
    """One task; the decoder is any, with as many channels as the task has outputs.

    Args:
        task: a registered one: "depth", "instances(least=3)" or {name: ..., args: {...}}; `dense-ctx plugins task`
            lists them.
        size: (H, W) of the outputs; the adapter's own `size` should be the same.
        image_size: (H, W) the images are resized to for the backbone: its native size.
        flip: mirror half of the images; not with a cache.
        cache: folder for the backbone's maps: they are computed once, at the start, and read from then on.
        targets: folder for the targets; default: they are computed each time.
        pixels: of a numbered task (instances) alone: at most so many pixels of an image enter the loss (default 256);
            its classifier has an output for each instance of the data set, so all pixels would not fit.

    Where the training's configuration leaves them open, the learning rate is the task's, which is the paper's, and
    there is no weight decay.

    Raises:
        UnknownNameError: no such task.
        ConfigError: settings that exclude one another.
    """

    reads_features: ClassVar[bool] = True
    file_args: ClassVar[Mapping[str, Any] | None] = {  # no folders; a task by its name alone
        "task": re.compile(r"[\w-]{1,100}"),
        "size": [range(1, 4097)],
        "image_size": [range(1, 4097)],
        "flip": bool,
        "pixels": range(1, 1 << 20),
    }

    def __init__(
        self,
        task: str | Mapping[str, Any],
        size: Size = (224, 224),
        image_size: Size = (224, 224),
        flip: bool = False,
        cache: str | None = None,
        targets: str | None = None,
        pixels: int | None = None,
    ) -> None:
        super().__init__()
        self.task = create_task(task)
        if len(size) != 2 or len(image_size) != 2 or min(*size, *image_size) < 1 or (pixels is not None and pixels < 1):
            raise ConfigError(f"size={size}, image_size={image_size}, pixels={pixels}: expected (H, W) and at least 1")
        numbered = self.task.numbered
        refuse_idle(
            [(pixels is not None and not numbered, "pixels", "without numbered instances, as all pixels count")]
        )
        if cache is not None and flip:
            raise ConfigError("flip needs images: leave out the cache, or flip")
        self.metric, self.unit, self.lower_is_better = self.task.metric, self.task.unit, self.task.lower_is_better
        self.loss_score = self.task.loss_score
        self.size: Size = (size[0], size[1])
        self.image_size: Size = (image_size[0], image_size[1])
        self.flip, self.cache, self.targets, self.pixels = flip, cache, targets, pixels or PIXELS
        self.optimizer = {"lr": self.task.lr, "weight_decay": 0.0}
        self.classifier: nn.Linear | None = None
        self._data: TaskData | None = None

    def use_folder(self, folder: str) -> None:
        """Store the targets in it."""
        self.targets = folder

    def dataset(self, data: Any) -> TaskData:
        """Samples of what `data` names: an ImageSet or {name, root, split, options}; see `dataset.open_images`."""
        images = open_images(data, self.task)
        self._data = TaskData(self.task, images, self.image_size, self.size, self.flip, self.targets)
        return self._data

    def outputs(self, dataset: Dataset[Any]) -> int:
        """Channels the decoder needs (D_out); of a numbered task, where any will do, a suggestion."""
        return len(_samples(dataset).images.classes) if self.task.channels is None else self.task.channels

    def use_features(self, features: FeatureCache) -> None:
        """Train on maps from disk.

        Raises:
            ConfigError: `flip` is set.
            InputError: `dataset` was not called before.
        """
        if self.flip:
            raise ConfigError("flip needs images: leave out the cache, or flip")
        _samples(self._data).features = features

    def setup(self, model: DenseModel, dataset: Dataset[Any], *, fresh: bool) -> list[dict[str, Any]]:
        """The default's groups. Fills the feature cache, if there is to be one.

        Raises:
            InputError: `dataset` was not called before.
            ConfigError: the decoder's channels are not the task's; the cache is stale, or the backbone trains.
        """
        self._data = samples = _samples(dataset)
        check_outputs(self.task, samples.images.classes, model.dim)
        if self.task.numbered and self.classifier is None:
            self.classifier = nn.Linear(model.dim, samples.offsets[-1]).to(model.device)
        if (self.cache is not None or samples.features is not None) and model.backbone.adapters():
            raise ConfigError(
                "The backbone has adapters that train, and features from disk would stay as they were before: leave "
                "out the cache"
            )
        if self.cache is not None and samples.features is None:
            samples.features = cache_features(model, samples.images, self.cache, self.image_size)
        return super().setup(model, dataset, fresh=fresh)

    def weight(self, batch: Batch) -> Tensor:
        """Pixels that the loss is a mean over: the known ones; of a numbered task those that are drawn."""
        known = self.task.known(batch["target"]).flatten(1).sum(1)
        return (known.clamp_max(self.pixels) if self.task.numbered else known).sum()

    def forward(self, model: DenseModel, batch: Batch) -> Losses:
        """Loss of a batch; logs the share of known pixels."""
        target: Tensor = batch["target"].to(model.device)
        prediction = self.predict(model, batch, None if self._data is None else self._data.features).float()
        if self.classifier is not None:
            pixels, labels = sample_pixels(target, self.pixels)
            vectors = prediction.flatten(2).gather(2, pixels[:, None].expand(-1, prediction.shape[1], -1))
            loss = self.task.loss(self.classifier(vectors.mT).mT, labels)
        else:
            loss = self.task.loss(prediction, target)
        return Losses(loss, {"loss": loss.detach(), "known": self.task.known(target).float().mean()})

    @torch.no_grad()
    def score(self, model: DenseModel, images: ImageSet, *, features: FeatureCache | None = None) -> dict[str, float]:
        """The task's scores on annotated images, at this objective's sizes.

        Raises:
            ConfigError: the decoder or the data is not the task's.
            InputError: nothing could be scored.
        """
        samples = TaskData(self.task, open_images(images, self.task), self.image_size, self.size, folder=self.targets)
        samples.features = features
        check_outputs(self.task, samples.images.classes, model.dim)
        scores = self.task.scores(samples.images.classes)
        training = model.training
        model.eval()
        try:
            batch: Batch
            spans = [range(start, min(start + SCORED, len(samples))) for start in range(0, len(samples), SCORED)]
            for batch in ahead(lambda span: default_collate([samples[index] for index in span]), spans):
                # instances are numbered from 0 over the data set, the rest is -1; scores want the background as 0
                targets = batch["target"] + 1 if self.task.numbered else batch["target"]
                for prediction, target in zip(self.predict(model, batch, features), targets, strict=True):
                    scores.update(prediction, target)
        finally:
            model.train(training)
        result = scores.compute()
        return {**result.values, "images": float(result.counts["images"])}

    def output(self) -> Output | None:
        """The task's, at this objective's sizes."""
        output = self.task.output(() if self._data is None else self._data.images.classes)
        return None if output is None else replace(output, image_size=self.image_size, size=self.size)

    def predict(self, model: DenseModel, batch: Batch, features: FeatureCache | None = None) -> Tensor:
        """The decoder's output [B, dim, *size] for a batch of images, or of maps from `features`."""
        if features is None:
            maps, padded = model.encode(batch["image"].to(model.device))
        else:
            maps, padded = _stored(features, batch, model.device)
        return model.decode(maps, padded, self.image_size, self.size)


def _samples(dataset: object) -> TaskData:
    if not isinstance(dataset, TaskData):
        raise InputError("Call dataset(data) first: the classes, the instances and the features come from it")
    return dataset


def _stored(features: FeatureCache, batch: Batch, device: torch.device) -> tuple[Features, Tensor]:
    tensors = {k: v.to(device) for k, v in batch.items() if k == "cls" or (k.startswith("map") and k[3:].isdigit())}
    maps = features.features(tensors)
    # the images are not stored; a decoder that looks at them gets NaN and fails instead of learning from nothing
    nothing = torch.full((1, 1, 1, 1), torch.nan, device=device)
    return maps, nothing.expand(len(batch["index"]), 3, *maps.image_size)
