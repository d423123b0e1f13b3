"""The plan of a benchmark: backbones x heads x tasks x seeds, and the name of each combination."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from dense_ctx.config import Part
from dense_ctx.create import identity
from dense_ctx.data import layout
from dense_ctx.errors import ConfigError, UnknownNameError
from dense_ctx.gateway import gateway
from dense_ctx.interfaces import Size
from dense_ctx.model_spec import near_miss, without_hint
from dense_ctx.plugins import registry
from dense_ctx.train.config import Optimizer

Precision = Literal["no", "tf32", "bf16", "fp16", "auto"]
_USUAL = {"clip_norm": 1.0, "mixed_precision": "no"}


@dataclass(frozen=True)
class BenchTask:
    """A registered objective that can score, such as maxa-depth, and the data it is trained and tested on.

    data: {name: of a data set, root: its folder, options of the data set ...}; train, val: the splits. steps, lr: of
    this task's training; None: the benchmark's steps, the objective's rate. args: further ones of the objective.
    head: arguments of every head for this task, above their own. images: so many of the training split, drawn once, the
    same for all cells; None: all.
    """

    objective: str
    data: Mapping[str, Any]
    train: str = "train"
    val: str = "val"
    steps: int | None = None
    lr: float | None = None
    args: Mapping[str, Any] = field(default_factory=dict)
    head: Mapping[str, Any] = field(default_factory=dict)
    images: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """As `dataclasses.asdict`; `args`, `head` and `images` only if there are any."""
        return {key: value for key, value in asdict(self).items() if value or key not in ("args", "head", "images")}

    def check(self) -> None:
        """Refuse names that do not exist and numbers out of their range.

        Raises:
            ConfigError, UnknownNameError: says which.
        """
        registry().get("objective", self.objective)
        if not {"name", "root"} <= set(self.data):
            raise ConfigError(
                f"{self.objective} needs data, as in {self.objective}(name=DATASET, root=PATH); got "
                f"{', '.join(self.data) or 'nothing'} in its brackets. `dense-ctx datasets` lists the names"
            )
        layout(str(self.data["name"]))
        if self.images is not None and (not isinstance(self.images, int) or self.images < 1):
            raise ConfigError(f"{self.objective}: images={self.images}; expected a whole number of at least 1")
        if self.steps is not None and (not isinstance(self.steps, int) or self.steps < 1):
            raise ConfigError(f"{self.objective}: steps={self.steps}; expected a whole number of at least 1")
        _check_rate(self.objective, self.lr)


@dataclass(frozen=True)
class PresetNames:
    """Of a preset: `rows` has its names of backbones by how they are written, `columns` those of its tasks."""

    name: str
    digest: str
    rows: Mapping[str, str]
    columns: Mapping[str, BenchTask]

    def of(self, cell: Cell) -> dict[str, str]:
        """What a cell is in the preset: name, digest, row and column."""
        column = next(name for name, task in self.columns.items() if task == cell.task)
        row = self.rows.get(str(cell.backbone), str(cell.backbone))
        return {"name": self.name, "digest": self.digest, "row": row, "column": column}


@dataclass(frozen=True)
class Bench:
    """What is run.

    heads: decoders; an `lr` among a head's arguments is its learning rate, before the task's, and none of its own.
    size: (H, W) of the outputs, the same for all. image_size: of the inputs; None: each backbone's native size.
    steps, batch_size: of the training of each head. held_out: share of the training images that selects one of ten of
        its states; 0: the last one is scored. cache: store each backbone's features under `out`/features; the
        objectives must be able to read them (`ScoredObjective.reads_features`).
    schedule: of the learning rate: "constant", or "cosine" down to 0.
    select: the state of a head that counts: of the best "score" on the held-out images, or of the least "loss" there
        (of the best score where the objective's loss has no meaning on images it was not trained on).
    optimizer, clip_norm, mixed_precision: as those of `TrainConfig`; the optimizer has no rate, each task has its own.
    preset: what the cells are of: its name, a digest of its file, and what it calls the backbones and tasks.
    device: on which everything is computed; "auto": the best there is, of several processes each its own.

    Raises:
        ConfigError, UnknownNameError: errors found before any work.
    """

    out: Path
    backbones: tuple[Part, ...]
    heads: tuple[Part, ...]
    tasks: tuple[BenchTask, ...]
    seeds: tuple[int, ...] = (0,)
    size: Size = (224, 224)
    image_size: Size | None = None
    steps: int = 1000
    batch_size: int = 16
    held_out: float = 0.1
    cache: bool = True
    schedule: Literal["constant", "cosine"] = "constant"
    select: Literal["score", "loss"] = "score"
    optimizer: Optimizer = field(default_factory=Optimizer)
    clip_norm: float | None = 1.0
    mixed_precision: Precision = "no"
    preset: PresetNames | None = None
    device: str = "auto"

    @gateway
    def __post_init__(self) -> None:
        for name in ("backbones", "heads", "tasks", "seeds"):
            values = getattr(self, name)
            if not values:
                raise ConfigError(f"{name} is empty: there is nothing to run")
            if len({repr(value) for value in values}) != len(values):
                raise ConfigError(f"{name} names one twice")
        if not 0 <= self.held_out <= 0.5:
            raise ConfigError(f"held_out={self.held_out}: expected a share from 0 to 0.5")
        if self.select not in ("score", "loss"):
            raise ConfigError(f"select={self.select!r}: expected score or loss")
        if self.optimizer.lr is not None:
            raise ConfigError(f"optimizer.lr={self.optimizer.lr}: a rate is a task's, or a head's lr")
        if self.schedule not in ("constant", "cosine"):
            raise ConfigError(f"schedule={self.schedule!r}: expected constant or cosine")
        for name, number in (("steps", self.steps), ("batch_size", self.batch_size)):
            if number < 1:
                raise ConfigError(f"{name}={number}: expected at least 1")
        for name, size in (("size", self.size), ("image_size", self.image_size or (1, 1))):
            if len(size) != 2 or min(size) < 1:
                raise ConfigError(f"{name}={size}: expected (H, W), each at least 1")
        for task in self.tasks:
            task.check()
        for head in self.heads:
            _check_rate(head.name, head.args.get("lr"))
        for part in self.backbones:
            _check_backbone(part.name)
        for part in self.heads:
            registry().get("decoder", part.name)

    def cells(self) -> Iterator[Cell]:
        """All cells, seed by seed, so that an interrupted run has fewer seeds rather than fewer backbones."""
        for seed in self.seeds:
            for backbone in self.backbones:
                for task in self.tasks:
                    for head in self.heads:
                        yield Cell(backbone, head, task, seed)

    def settings(self, cell: Cell) -> dict[str, Any]:
        """Everything that affects a cell's result, JSON-ready."""
        values = {
            "backbone": asdict(cell.backbone), "head": asdict(cell.head), "task": cell.task.to_dict(),
            "seed": cell.seed,
            "size": self.size, "image_size": self.image_size, "steps": cell.task.steps or self.steps,
            "batch_size": self.batch_size, "held_out": self.held_out, "schedule": self.schedule,
        }  # fmt: skip
        if self.select != "score":
            values["select"] = self.select
        values |= {name: getattr(self, name) for name, usual in _USUAL.items() if getattr(self, name) != usual}
        if self.optimizer != Optimizer():
            values["optimizer"] = asdict(self.optimizer)
        if self.preset is not None:
            values["preset"] = self.preset.of(cell)
        stamp = identity(cell.backbone.name, cell.backbone.args)
        if stamp is not None:  # its name stays when the model in it is trained again
            values["model"] = stamp
        settings: dict[str, Any] = json.loads(json.dumps(values, default=str))
        return settings


@dataclass(frozen=True)
class Cell:
    """One head on one backbone for one task from one seed."""

    backbone: Part
    head: Part
    task: BenchTask
    seed: int

    @property
    def name(self) -> str:
        """Fit for a file: readable, and told apart from others by a digest of all arguments."""
        title = f"{self.backbone.name}-{self.head.name}-{self.task.objective}-{self.seed}"
        return f"{re.sub(r'[^A-Za-z0-9.-]+', '_', title)}-{digest({**asdict(self), 'task': self.task.to_dict()})}"


def _check_rate(name: str, lr: Any) -> None:
    if lr is not None and (isinstance(lr, bool) or not isinstance(lr, (int, float)) or not lr > 0):
        raise ConfigError(f"{name}: lr={lr}; expected a number above 0")


def digest(value: Any) -> str:
    """Eight characters that differ where the value differs."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:8]


def _check_backbone(name: str) -> None:
    """Raise UnknownNameError, with one hint, for a name that is not a backbone's."""
    try:
        registry().get("backbone", name)
    except UnknownNameError as error:
        hint = near_miss(name, saved=False)
        raise (error if hint is None else UnknownNameError(f"{without_hint(error)} {hint}")) from None
