"""Objective: data sets and losses of a training; ScoredObjective: one that can also score a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn
from torch.utils.data import Dataset

from ..errors import ConfigError
from .features import Batch, Size

if TYPE_CHECKING:
    from ..config import Output
    from ..data.base import ImageSet
    from ..data.features import FeatureCache
    from ..model import DenseModel


@dataclass(frozen=True)
class Losses:
    """The losses of a batch: total [] to differentiate, logs: scalars [] for the log, of the same names each time."""

    total: Tensor
    logs: Mapping[str, Tensor] = field(default_factory=dict)


class SeededDataset(Dataset[Any], ABC):
    """A data set whose augmentation depends on its arguments alone, so that a resumed run sees the same samples.

    Training calls `sample` with a seed per epoch and index. Any other data set is indexed after seeding Python's,
    NumPy's and torch's generators; with a generator of its own, resuming would not be exact.
    """

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    @abstractmethod
    def sample(self, index: int, seed: int) -> Any:
        """Sample number `index`; all randomness comes from `seed`."""

    def __getitem__(self, index: int) -> Any:
        return self.sample(index, index)


class EpochDataset(Dataset[Any], ABC):
    """A data set that depends on the epoch, for a curriculum. Not needed for random augmentation."""

    @abstractmethod
    def set_epoch(self, epoch: int) -> None:
        """Called in each data worker before its first sample of an epoch, counted from 0."""


class Objective(nn.Module, ABC):
    """A training objective. It may own parameters (a projector), which are not part of the published model.

    The order of calls is `dataset`, `check`, `setup` once, then `prepare`, `forward` and `after_step` for each step,
    `finish` once. Weights are opened after `dataset`: missing data is noticed before.

    Attributes set by the subclass:
        optimizer: default "lr" and "weight_decay", for training configurations that leave them open.
    """

    optimizer: Mapping[str, float] = MappingProxyType({})
    file_args: ClassVar[Mapping[str, Any] | None] = None  # as Backbone's

    def check(self, model: DenseModel) -> None:
        """Refuse a model that this objective cannot train with its settings, before its first step. Default: none.

        Raises:
            ConfigError: says why, and what to change.
        """

    @abstractmethod
    def dataset(self, data: Any) -> Dataset[Any]:
        """The data set of pairs, clips or episodes for the configuration's `data` (a folder, a list of files)."""

    def collate(self, samples: list[Any]) -> Batch:
        """Collate samples to a batch; default: torch's default_collate."""
        from torch.utils.data import default_collate

        batch: Batch = default_collate(samples)
        return batch

    def setup(self, model: DenseModel, dataset: Dataset[Any], *, fresh: bool) -> list[dict[str, Any]]:
        """Prepare for training, once: create heads, EMA copies, adapters and caches.

        Args:
            model: on its device; may be changed.
            dataset: what `dataset` gave.
            fresh: the decoder has its initial random weights and may be initialised from data. False for a published
                model and a resumed run, whose weights must not change.

        Returns:
            Parameter groups for the optimiser, as torch.optim takes them. Default: the decoder's, the backbone's
            adapters and this objective's own parameters. A group sets an lr or a weight_decay only where the user asked
            for that: it takes precedence over the configuration's.
        """
        names = set(model.backbone.adapters())
        adapters = [p for name, p in model.backbone.named_parameters() if name in names]
        for parameter in adapters:
            parameter.requires_grad_(True)
        decoder, own = ([p for p in part.parameters() if p.requires_grad] for part in (model.decoder, self))
        return [{"params": parameters} for parameters in (decoder, adapters, own) if parameters]

    def weight(self, batch: Batch) -> Tensor | float | None:
        """How many things the loss of a batch, as `collate` gave it, is a mean over: known pixels, not images.

        A training with several processes, or parts of a step, weighs their losses so, which makes them that of the
        joint batch. Default: None, all parts count the same.
        """
        return None

    def prepare(self, model: DenseModel, batch: Batch) -> Batch:
        """What the host, or another network, makes of a batch: outside of what a training compiles. Default: nothing.

        `forward` calls it too, so that a batch that is prepared must stay as it is.
        """
        return batch

    @abstractmethod
    def forward(self, model: DenseModel, batch: Batch) -> Losses:
        """Compute the losses of one batch. NaN in it is a fault of the data, but for unknown values of "target".

        As one graph may be compiled of it, no shape depends on values, nor a branch, but for `numerics.holds`.
        """

    def after_step(self, model: DenseModel, step: int) -> None:
        """Run after each optimiser step (EMA teachers). Default: nothing."""

    def finish(self, model: DenseModel) -> None:
        """Run once after the last step, in the first process, before the model is written. Default: nothing."""

    def output(self) -> Output | None:
        """What the trained decoder's channels are, for the model's config.json. Default None: features.

        Asked after `setup`.
        """
        return None


class ScoredObjective(Objective):
    """An objective that can score a model on held-out images: a task of `dense-ctx bench`.

    The order of calls is `use_folder`, `dataset`, `outputs`, `use_features`, then as for any objective; `score` at any
    time after `setup`.

    Attributes set by the subclass:
        metric: the headline among the scores. unit: of it; "" for a share or a number without one.
        lower_is_better: whether a lower headline is better.
        loss_score: the score that is the training loss on the scored images; "" if there is none.
        reads_features: whether it supports a feature cache: `use_features`, and `features` of `score`. If not, a
            benchmark runs it only without a cache.
        size: (H, W) of the outputs. image_size: (H, W) images are resized to. A benchmark sets both before `dataset`.
    """

    reads_features: ClassVar[bool] = False
    metric: str = ""
    unit: str = ""
    lower_is_better: bool = False
    loss_score: str = ""
    size: Size
    image_size: Size

    @abstractmethod
    def outputs(self, dataset: Dataset[Any]) -> int:
        """Channels the decoder needs for this data set, a result of `dataset`."""

    @abstractmethod
    def score(self, model: DenseModel, images: ImageSet, *, features: FeatureCache | None = None) -> dict[str, float]:
        """The scores of a model on annotated images, among them `metric`, and "images", the number scored.

        Args:
            model: in eval mode, and left so.
            images: not the training images.
            features: cache of the backbone's maps of these images, to be read instead of running the backbone; only if
                `reads_features`.
        """

    def use_features(self, features: FeatureCache) -> None:
        """Train on cached maps of the training images instead of running the backbone.

        Raises:
            ConfigError: not supported (the default; see `reads_features`), or not with its settings.
        """
        raise ConfigError(
            f"{type(self).__name__} cannot train on features from disk: reads_features is False. Run the backbone in "
            "every step; for a benchmark that is --no-cache"
        )

    def use_folder(self, folder: str) -> None:
        """Store what is slow to compute (targets) in a folder that outlives this run. Default: nothing is stored.

        A folder belongs to one task, its arguments, the size of the outputs and a data set; training and scored images
        share it.
        """
