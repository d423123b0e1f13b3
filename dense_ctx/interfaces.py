"""The contract of every part (Backbone, Decoder, Objective, Probe, Metric) and what passes between them.

Axes are always [B, C, H, W], sizes (H, W), flow [B, 2, H, W] as (x, y) in pixels. What a part may be asked for is
written here and nowhere else; `dense_ctx.testing` has a check for each class. Data sets and commands are described
where no torch is loaded: `dense_ctx.data.base`, `dense_ctx.commands.base`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from .errors import CheckpointError, ConfigError, InputError

if TYPE_CHECKING:
    from typing_extensions import Self

    from .data.base import ImageSet
    from .data.features import FeatureCache
    from .model import DenseModel

Size = tuple[int, int]
Batch = Mapping[str, Any]  # what an Objective's data set collates to: names to tensors [B, ...] or lists
Task = Literal["segmentation", "regression"]
Reads = Literal["pixels", "patches", "both"]  # the decoder's features, the encoder's, or both


@dataclass(frozen=True)
class Features:
    """What a backbone returns.

    maps: shallow to deep, each [B, C_l, h_l, w_l], prefix tokens removed.
    cls: [B, C] global descriptor, or None where the backbone has none.
    image_size: (H, W) of the tensor that was encoded.
    """

    maps: tuple[Tensor, ...]
    cls: Tensor | None
    image_size: Size


@dataclass(frozen=True)
class DenseFeatures:
    """What a DenseModel returns: pixels [B, D, H, W], patches [B, C, h, w] (the deepest map), cls [B, C] or None.

    extent: share of the patch grid's height and width that the image covers; the rest is padding to the stride.
    """

    pixels: Tensor
    patches: Tensor
    cls: Tensor | None = None
    extent: tuple[float, float] = (1.0, 1.0)

    def on_pixels(self, low: Tensor) -> Tensor:
        """Bring a map on the patch grid, [B, K, h, w], to the pixel grid: bilinear, padding cut off."""
        height, width = self.pixels.shape[-2:]
        full = (max(height, round(height / self.extent[0])), max(width, round(width / self.extent[1])))
        if tuple(low.shape[-2:]) == full:
            return low[:, :, :height, :width]
        shrink = low.shape[-2] > full[0] or low.shape[-1] > full[1]
        large = functional.interpolate(low, size=full, mode="bilinear", align_corners=False, antialias=shrink)
        return large[:, :, :height, :width]

    def __iter__(self) -> Iterator[Tensor | None]:
        return iter((self.pixels, self.patches, self.cls))

    def to(self, *args: Any, **kwargs: Any) -> DenseFeatures:
        """Move or cast, as `Tensor.to`."""
        cls = None if self.cls is None else self.cls.to(*args, **kwargs)
        return DenseFeatures(self.pixels.to(*args, **kwargs), self.patches.to(*args, **kwargs), cls, self.extent)


@dataclass(frozen=True)
class Losses:
    """What an Objective returns: total [] to differentiate, logs of scalars [] to write down."""

    total: Tensor
    logs: Mapping[str, Tensor] = field(default_factory=dict)


class Link(NamedTuple):
    """A saved model that a backbone is built from: name as given, resolved folder, whether only this machine has it."""

    name: str
    folder: Path
    local: bool


class Backbone(nn.Module, ABC):
    """An encoder from images to a pyramid of feature maps.

    Attributes set by the subclass:
        dims: channels of each map, shallow to deep.
        strides: pixels per cell of each map.
        stride: what H and W of the input must divide by (patch size, or the deepest stride).
        mean, std: per-channel normalisation of an image in [0, 1].
        image_size: (H, W) of pre-training, where position embeddings need no interpolation.
        source: where the weights came from ("timm/vit_...", a file), or None when they are random.
        links: the saved models it is built from, nearest first.
    """

    dims: tuple[int, ...]
    strides: tuple[int, ...]
    stride: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    image_size: Size
    source: str | None = None
    links: tuple[Link, ...] = ()
    # arguments that may come from a file: `dense_ctx.persistence.file_args`; None: bounded numbers alone
    file_args: ClassVar[Mapping[str, Any] | None] = None

    @abstractmethod
    def forward(self, images: Tensor) -> Features:
        """Encode normalised images [B, 3, H, W], H and W multiples of `stride`."""

    def blocks(self) -> list[str]:
        """Names (prefixes of parameter names) of the sequential blocks, shallow to deep; the final norm last.

        Objectives that fine-tune "the last k blocks" pick from the end. Default: none known.
        """
        return []

    def adapters(self) -> list[str]:
        """Names of parameters made to be trained while the rest stays frozen (LoRA), under any objective.

        They train with the decoder and are stored in the checkpoint. Default: none.
        """
        return []

    @classmethod
    def random_args(cls) -> dict[str, Any]:
        """Arguments that build it with random weights, without reading or fetching any. Default: none are needed."""
        return {}

    @classmethod
    def identity(cls, *args: Any, **named: Any) -> str | None:
        """A digest of what the constructor's arguments name and what may change behind them (a folder's model).

        Asked without building it; a benchmark takes it into what a cell's numbers depend on. Default None: the
        arguments say it all.

        Raises:
            FileError: what they name is not there.
        """
        return None

    def stored_args(self, args: Mapping[str, Any], *, whole: bool) -> dict[str, Any]:
        """The arguments to write into a model's config.json. Default: `args` as they are.

        Args:
            args: those it was built with. What they leave to a default or to a file that may change is made explicit.
            whole: the checkpoint holds all its tensors: these and `random_args` must suffice to build it.
        """
        return dict(args)


class Decoder(nn.Module, ABC):
    """From a backbone's maps to features or predictions at any size.

    The registry calls `Decoder(dims=..., strides=..., **args)` with the backbone's own values.

    Attributes set by the subclass:
        dim: number of output channels.
        layers: indices of the maps that `forward` reads, negative ones from the end; None: all. A cache of features
            holds those alone.

    Attributes set by the library:
        fresh: it has the weights it was made with, so a training may initialise them from data. False from the first
            training step on, and after weights were loaded, by `load_state_dict` of it or of a model that holds it.
            While a run that resumes is set up: whether it was when that run began.
    """

    dim: int
    layers: tuple[int, ...] | None = None
    file_args: ClassVar[Mapping[str, Any] | None] = None  # as Backbone's
    fresh: bool = True

    def _load_from_state_dict(self, *args: Any) -> None:  # what torch calls for each module that loads, children too
        super()._load_from_state_dict(*args)
        self.fresh = False

    @abstractmethod
    def forward(self, features: Features, images: Tensor, size: Size) -> Tensor:
        """Decode to [B, dim, *size]. `images` is the normalised tensor [B, 3, H, W] that was encoded."""

    @classmethod
    def size_args(cls, size: Size, image_size: Size, strides: Sequence[int], args: Mapping[str, Any]) -> dict[str, Any]:
        """Constructor arguments that follow from the sizes a model is made for; default none.

        Args:
            size: (H, W) of the outputs.
            image_size: (H, W) of the images.
            strides: the backbone's.
            args: what the user gave; it stands above what is returned.
        """
        return {}

    def initialise(self, batches: Iterable[Sequence[Tensor]]) -> bool:
        """Set the first weights from data: the maps [B, C_l, h_l, w_l] of some images, as the backbone gives them.

        Returns:
            False: not supported, nothing was read and nothing changed (the default).
        """
        return False

    def shift(self, offset: Tensor) -> bool:
        """Add a vector [dim] to every pixel decoded from now on.

        Returns:
            False: not supported, nothing changed (the default).
        """
        return False


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


@dataclass(frozen=True)
class FitContext:
    """All that an evaluation knows before it gives a probe its first batch.

    classes: names, in the order of their ids; () where the targets are values.
    unseen: those that the probe will see no label of (zero-shot).
    reads: which features the protocol wants read. A probe that is trained by steps is given all of them and reads
        these; any other finds them in `DenseFeatures.pixels`: the decoder's, the encoder's, or both joined.
    steps: gradient steps, each one call of `partial_fit`; None: the probe is not to be trained by steps.
    seed: of all that is random in the probe, below a seed of its own arguments.
    """

    classes: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()
    reads: Reads = "pixels"
    steps: int | None = None
    seed: int = 0


class Probe(ABC):
    """Reads predictions out of features, with scikit-learn's verbs; fitted state ends in "_".

    Args:
        task: "segmentation" (targets [B, H, W] int64 class indices, -1 is ignored) or
            "regression" (targets [B, K, H, W] float, NaN is ignored).
        seed: of all that is random in it; None: an evaluation's, else 0.
    """

    # True: targets at the image's own size are welcome, however coarse the grid of the pixel features
    pixel_targets: ClassVar[bool] = False
    file_args: ClassVar[Mapping[str, Any] | None] = None  # as Backbone's

    def __init__(self, task: Task = "segmentation", seed: int | None = None) -> None:
        self.task = task
        self.seed = 0 if seed is None else seed
        self._own_seed = seed is not None

    def configure(self, context: FitContext) -> None:
        """Take what an evaluation knows, before the first `partial_fit` and before any work.

        The default takes the seed, and suits a closed-form probe.

        Raises:
            ConfigError: the probe cannot do what the context asks: it is not trained by steps, knows nothing of
                classes without labels, or lacks what it needs (text embeddings).
        """
        name = type(self).__name__
        if context.steps is not None:
            raise ConfigError(
                f"{name} is not trained by steps: leave `train` out of the protocol (train=null), or name a probe that "
                "is, such as conv"
            )
        if context.unseen:
            raise ConfigError(f"{name} cannot predict classes it sees no label of; use a zero-shot probe")
        if not self._own_seed:
            self.seed = context.seed

    @abstractmethod
    def partial_fit(self, features: DenseFeatures, targets: Tensor) -> Self:
        """Learn from B more images, on top of what was learned before. New classes may appear at any call."""

    @abstractmethod
    def predict(self, features: DenseFeatures, size: Size | None = None) -> Tensor:
        """Predict [B, K, *size]: class probabilities (they sum to 1 over K) or values. size: default the pixels'."""

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """Return the fitted state as tensors, for safetensors."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take a fitted state back.

        Raises:
            CheckpointError: not one of this probe: a tensor is missing, left over, or of another shape or dtype.
        """

    def outputs(self, pixels: int, patches: int) -> int:
        """How many channels are predicted from features of so many; the default predicts for random ones, 2 x 2.

        Raises:
            CheckpointError: the fitted state is of features of other widths.
        """
        generator = torch.Generator().manual_seed(0)
        maps = [torch.randn(1, width, 2, 2, generator=generator) for width in (pixels, patches)]
        try:
            return self.predict(DenseFeatures(maps[0], maps[1], None)).shape[1]
        except (RuntimeError, InputError) as error:
            name = f"{type(self).__name__} is not fitted on features of {pixels} and {patches} channels"
            raise CheckpointError(f"{name} (pixels, patches): {error}") from error


@dataclass(frozen=True)
class Scores:
    """What a Metric computes.

    values: each of the metric's scores, NaN where one does not exist. parts: the headline's parts (per class, per
    object), None where there is none. counts: how many images, pixels ... were scored.
    """

    values: Mapping[str, float]
    parts: Mapping[str, Any] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)


class Metric(ABC):
    """Scores over a data set, accumulated image by image; accumulators of shards merge, in any split of the work.

    A subclass names its conventions as keyword arguments with defaults, below `classes`; an argument that it does not
    name is refused. What it is registered under is the class itself.

    Attributes set by the subclass:
        target: kind of data set whose targets it takes: "segmentation", "depth", "normals", "instances" or "video".
        higher_is_better: the scores it computes, and which way each is better.

    Args:
        classes: names of the data set's classes; () where the targets are values.
    """

    target: ClassVar[str]
    higher_is_better: ClassVar[Mapping[str, bool]]

    def __init__(self, classes: Sequence[str] = ()) -> None:
        self.classes = tuple(classes)

    def start(self, name: str, target: Tensor) -> None:
        """Begin a clip whose first frame is annotated by `target`, int64 [H, W] (video only). Default: nothing."""
        return None

    @abstractmethod
    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add one image, or a clip's next frame.

        Args:
            prediction: [K, H, W] class probabilities or values; of a clip's frame the labels, int64 [H, W].
            target: as `dense_ctx.data.base.Sample` has it.
        """

    @abstractmethod
    def state(self) -> Any:
        """The accumulated sums as JSON values: what `json` gives back as it was (no tuples, no keys but str)."""

    @abstractmethod
    def merge(self, state: Any) -> None:
        """Add another accumulator's `state`."""

    @abstractmethod
    def compute(self) -> Scores:
        """The scores over everything added, one value for each of `higher_is_better`.

        Raises:
            InputError: nothing could be scored.
        """
