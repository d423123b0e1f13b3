"""MaxaObjective: train a head on a frozen backbone's features for one task."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from dense_ctx.data.features import FeatureCache, plan_features
from dense_ctx.errors import ConfigError, InputError
from dense_ctx.files import state_digest
from dense_ctx.interfaces import Batch, Features, Losses, Objective, Size
from dense_ctx.model import DenseModel

from . import tasks
from .dataset import TaskData, open_images
from .losses import drawn_pixels, labels_loss, values_loss


class MaxaObjective(Objective):
    """One of the paper's tasks, or normals; the decoder is any, with as many channels as the task has outputs.

    Args:
        task: "boundaries", "distance", "instances", "semantic", "depth" or "normals".
        size: (H, W) of the outputs; the adapter's own `size` should be the same.
        image_size: (H, W) the images are resized to for the backbone: its native size.
        lr: of Adam (AdamW without decay); default the paper's, 2e-3 for boundaries and depth, else 1e-3. It
            stands above the configuration's.
        flip: mirror half of the images; not with a cache.
        cache: folder for the backbone's maps: they are computed once, at the start, and read from then on.
        targets: folder for the targets; default they are made each time.
        pixels: instances: at most so many pixels of an image enter the loss; its classifier has an output for each
            instance of the data set, so all pixels would not fit.

    Raises:
        UnknownNameError: no such task.
        ConfigError: settings that exclude one another.
    """

    def __init__(
        self,
        task: str,
        size: Size = (224, 224),
        image_size: Size = (224, 224),
        lr: float | None = None,
        flip: bool = False,
        cache: str | None = None,
        targets: str | None = None,
        pixels: int = 256,
    ) -> None:
        super().__init__()
        self.task = tasks.find(task)
        if len(size) != 2 or len(image_size) != 2 or min(*size, *image_size) < 1 or pixels < 1:
            raise ConfigError(f"size={size}, image_size={image_size}, pixels={pixels}: expected (H, W) and at least 1")
        if lr is not None and not lr > 0:
            raise ConfigError(f"lr={lr}: expected above 0")
        if cache is not None and flip:
            raise ConfigError("flip needs images: leave out the cache, or flip")
        self.size: Size = (size[0], size[1])
        self.image_size: Size = (image_size[0], image_size[1])
        self.lr = self.task.lr if lr is None else lr
        self.flip, self.cache, self.targets, self.pixels = flip, cache, targets, pixels
        self.classifier: nn.Linear | None = None
        self._data: TaskData | None = None
        self._reader: FeatureCache | None = None
        self._opened: dict[str, tuple[str, list[str], FeatureCache]] = {}

    def dataset(self, data: Any) -> Dataset[Any]:
        """Samples of what `data` names: an ImageSet or {name, root, split, options}; see `data.open_images`."""
        images = open_images(data, self.task)
        self._data = TaskData(self.task, images, self.image_size, self.size, self.flip, self.targets)
        return self._data

    @property
    def outputs(self) -> int:
        """Channels the decoder needs (D_out); for "instances", where any will do, the paper's 32.

        Raises:
            InputError: the classes are not known before `dataset` was called.
        """
        if self.task.outputs:
            return max(self.task.outputs, 32 if self.task.outputs < 0 else 1)
        if self._data is None:
            raise InputError("Call dataset(data) first: the number of classes comes from it")
        return len(self._data.images.classes)

    @property
    def metric(self) -> str:
        """The headline among the scores."""
        return self.task.metric

    @property
    def unit(self) -> str:
        """Of the headline; empty for a share or a number without one."""
        return self.task.unit

    @property
    def lower_is_better(self) -> bool:
        """Whether a smaller headline value is the better one."""
        return self.task.metric in ("mse", "rmse", "mean")

    def setup(self, model: DenseModel, dataset: Dataset[Any], *, fresh: bool) -> list[dict[str, Any]]:
        """The decoder, for "instances" with a classifier. Fills the feature cache, if there is to be one.

        Raises:
            InputError: `dataset` was not called before.
            ConfigError: the decoder's channels are not the task's; the cache is stale.
        """
        if self._data is None:
            raise InputError("Call dataset(data) first: the classes and the cache come from it")
        tasks.outputs(self.task, len(self._data.images.classes), model.dim)
        if self.task.name == "instances" and self.classifier is None:
            self.classifier = nn.Linear(model.dim, self._data.offsets[-1]).to(model.device)
        if self.cache is not None and self._reader is None:
            self._reader = self._data.cache = cached(model, self._data, self.cache)
        return [{**group, "lr": self.lr, "weight_decay": 0.0} for group in super().setup(model, dataset, fresh=fresh)]

    def forward(self, model: DenseModel, batch: Batch) -> Losses:
        """Loss of a batch; logs the share of known pixels."""
        target: Tensor = batch["target"].to(model.device)
        prediction = self.predict(model, batch).float()
        seen = target >= 0 if not self.task.values else target.isfinite().all(1)
        if self.classifier is not None:
            rows, places = drawn_pixels(target, self.pixels)
            latent = prediction.flatten(2)[rows, :, places]
            # the sum of nothing keeps the graph: a process without instances still has its gradients, of 0
            total = labels_loss(self.classifier(latent), target.flatten(1)[rows, places]) + 0 * prediction.sum()
        elif self.task.values:
            total = values_loss(self.task.name, prediction, target)
        else:
            total = labels_loss(prediction, target)
        return Losses(total, {"loss": total.detach(), "known": seen.float().mean()})

    def score(self, model: DenseModel, data: Any, **options: Any) -> dict[str, float]:
        """The task's metrics of a model on what `data` names; options as `evaluate.score`."""
        from .evaluate import score

        return score(model, self, data, **options)

    def reader(self, model: DenseModel, samples: TaskData, folder: str) -> FeatureCache:
        """The backbone's maps of `samples`; computed where they are missing, checked once for the same weights and
        images: training that scores a held-out part now and then would look at the whole cache each time."""
        weights, names = state_digest(model.backbone.state_dict()), list(samples.images.names)
        known = self._opened.get(folder)
        if known is None or known[:2] != (weights, names):
            known = self._opened[folder] = weights, names, cached(model, samples, folder)
        return known[2]

    def predict(self, model: DenseModel, batch: Batch, reader: FeatureCache | None = None) -> Tensor:
        """The decoder's output [B, dim, *size] for the images of a batch, or its maps from `reader` (default: the
        training images' cache)."""
        if "image" in batch:
            features, padded = model.encode(batch["image"].to(model.device))
        else:
            reader = reader or self._reader
            if reader is None:
                raise InputError("The batch holds cached maps, but setup has opened no cache")
            features, padded = _cached_features(reader, batch, model.device)
        return model.decode(features, padded, self.image_size, self.size)


def _cached_features(reader: FeatureCache, batch: Batch, device: torch.device) -> tuple[Features, Tensor]:
    kept = {k: v.to(device) for k, v in batch.items() if k == "cls" or (k.startswith("map") and k[3:].isdigit())}
    features = reader.features(kept)
    # the images were not kept; a decoder that looks at them gets NaN and fails instead of learning from nothing
    nothing = torch.full((1, 1, 1, 1), torch.nan, device=device)
    return features, nothing.expand(len(batch["index"]), 3, *features.image_size)


def cached(model: DenseModel, data: TaskData, folder: str) -> FeatureCache:
    """Compute what is missing of the maps the decoder reads, all processes together, then open them."""
    from tqdm import tqdm

    from dense_ctx.environment import processes
    from dense_ctx.environment import wait_for_everyone as everyone

    layers = tuple(getattr(model.decoder, "layers", range(len(model.backbone.dims))))
    config = model.model_config
    name = None if config is None else config.backbone.name
    rank, world = processes()
    plan = plan_features(
        model.backbone, data.images, folder, data.image_size, layers,
        name=name, rank=rank, world=world,
    )  # fmt: skip
    with tqdm(total=plan.left, desc="features", unit="image", disable=not plan.left) as bar:
        plan.run(bar.update)
    everyone()
    return FeatureCache(folder, model.backbone, data.images, data.image_size, layers, name=name)
