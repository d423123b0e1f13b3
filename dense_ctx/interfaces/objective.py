"""Objective: what to learn from what, and what it asks of a data set; ScoredObjective: and how well that went."""

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
    from ..data.base import ImageSet
    from ..data.features import FeatureCache
    from ..model import DenseModel


@dataclass(frozen=True)
class Losses:
    """What an Objective returns: total [] to differentiate, logs of scalars [] to write down."""

    total: Tensor
    logs: Mapping[str, Tensor] = field(default_factory=dict)


class SeededDataset(Dataset[Any], ABC):
    """A data set whose augmentation depends on nothing but its arguments: a run that goes on sees the same samples.

    A training calls `sample` with a seed of its own for each epoch and index. Any other data set is indexed, after
    Python's, NumPy's and torch's generators have been seeded; a generator of its own would make a continued run
    another one.
    """

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    @abstractmethod
    def sample(self, index: int, seed: int) -> Any:
        """Sample number `index`, with all its randomness from `seed`."""

    def __getitem__(self, index: int) -> Any:
        return self.sample(index, index)


class EpochDataset(Dataset[Any], ABC):
    """A data set that is told which epoch begins, for a curriculum. Not needed for randomness."""

    @abstractmethod
    def set_epoch(self, epoch: int) -> None:
        """Called in each process that reads, before its first sample of an epoch, counted from 0."""


class Objective(nn.Module, ABC):
    """What to learn from what. May own parameters (a projector); they are dropped from the published model.

    The order of calls is `check`, `dataset`, `setup` once, then `forward` and `after_step` for each step, `finish`
    once.

    Attributes set by the subclass:
        optimizer: "lr" and "weight_decay" that suit it, which hold where a training's configuration leaves them open.
    """

    optimizer: Mapping[str, float] = MappingProxyType({})
    file_args: ClassVar[Mapping[str, Any] | None] = None  # as Backbone's

    def check(self, model: DenseModel) -> None:
        """Refuse a model that this objective cannot train as it is set, before any data is looked at. Default: none.

        Raises:
            ConfigError: says why, and what to change.
        """
        return None

    @abstractmethod
    def dataset(self, data: Any) -> Dataset[Any]:
        """Make the data set of pairs, clips or episodes from what the user names (a folder, a list of files)."""

    def collate(self, samples: list[Any]) -> Batch:
        """Join samples to a batch; default: torch's own collation."""
        from torch.utils.data import default_collate

        batch: Batch = default_collate(samples)
        return batch

    def setup(self, model: DenseModel, dataset: Dataset[Any], *, fresh: bool) -> list[dict[str, Any]]:
        """Prepare for training, once: make heads, slow copies, adapters and caches.

        Args:
            model: on its device; may be changed.
            dataset: what `dataset` gave.
            fresh: the decoder has the random weights it was made with, so it may be initialised from data. False for
                a published model and for a run that resumes: their weights must stay as they are.

        Returns:
            Parameter groups for the optimiser, as torch.optim takes them. Default: the decoder's, the backbone's
            adapters and this objective's own parameters. A group has an lr or a weight_decay of its own only where the
            user asked for that: it stands above the configuration's.
        """
        names = set(model.backbone.adapters())
        adapters = [p for name, p in model.backbone.named_parameters() if name in names]
        for parameter in adapters:
            parameter.requires_grad_(True)
        parts = [
            [p for p in model.decoder.parameters() if p.requires_grad],
            adapters,
            [p for p in self.parameters() if p.requires_grad],
        ]
        return [{"params": parameters} for parameters in parts if parameters]

    @abstractmethod
    def forward(self, model: DenseModel, batch: Batch) -> Losses:
        """Compute the losses of one batch."""

    def after_step(self, model: DenseModel, step: int) -> None:
        """Run after each optimiser step (EMA teachers). Default: nothing."""

    def finish(self, model: DenseModel) -> None:
        """Run once after the last step, in the first process, before the model is written. Default: nothing."""


class ScoredObjective(Objective):
    """An objective that can measure a model on held-out images: what `dense-ctx bench` takes as a task.

    The order of calls is `use_folder`, `dataset`, `outputs`, `use_features`, then as any objective's; `score` at any
    time after `setup`.

    Attributes set by the subclass:
        metric: the headline among the scores. unit: of it; "" for a share or a number without one.
        lower_is_better: whether a smaller headline value is the better one.
        loss_score: the score that is the training loss on the images scored; "" where there is none.
        reads_features: whether it can train on, and score, a backbone's maps from disk: `use_features` and the
            `features` of `score`. A benchmark runs an objective that cannot only without its cache.
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
        """Channels the decoder needs for this data set (as `dataset` gave it)."""

    @abstractmethod
    def score(self, model: DenseModel, images: ImageSet, *, features: FeatureCache | None = None) -> dict[str, float]:
        """The scores of a model on annotated images, `metric` among them, and "images": how many counted.

        Args:
            model: in eval mode, and left so.
            images: not the training images.
            features: the backbone's maps of these images, to be read in place of running the backbone; given only if
                `reads_features`.
        """

    def use_features(self, features: FeatureCache) -> None:
        """Train on the backbone's maps of the training images from disk, in place of running the backbone.

        Raises:
            ConfigError: this objective cannot (the default; see `reads_features`), or not as it is set.
        """
        raise ConfigError(
            f"{type(self).__name__} cannot train on features from disk: reads_features is False. Run the backbone in "
            "every step; for a benchmark that is --no-cache"
        )

    def use_folder(self, folder: str) -> None:
        """Keep what is slow to make again (targets) in a folder that outlives this run. Default: nothing is kept.

        A folder belongs to one task, its arguments, the size of the outputs and a data set; images that are trained
        on and images that are scored share it.
        """
