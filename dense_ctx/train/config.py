"""TrainConfig: all settings of a run, as frozen dataclasses and as YAML."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

from ..config import Part, Parts, dump_yaml, json_ready, load_yaml, override, parse_part, typed
from ..errors import ConfigError, shortened
from ..gateway import gateway
from ..persistence.identity import differences
from ..plugins import registry

# keys that affect no weights; and those that may change on resume: none affects completed steps
NOT_TRAINED = ("out", "resume", "wait", "log", "log_with", "save", "validate")
FREE = (*NOT_TRAINED, "steps", "epochs", "accumulate", "device", "compile", "workers")
OPEN = {"lr": 1e-3, "weight_decay": 0.01}  # of the optimizer: what neither configuration nor objective decides
_RANGES = (  # of numbers: in words, the least, and the keys
    ("at least 1", 1, ("steps", "batch_size", "accumulate", "log", "save.keep")),
    ("at least 0", 0, ("save.every", "validate.every", "schedule.warmup", "schedule.floor", "average.start",
                       "average.momentum", "workers", "seed", "optimizer.weight_decay")),
    ("more than 0, and finite", math.ulp(0.0), ("optimizer.lr", "clip_norm", "epochs")),
)  # fmt: skip


@dataclass(frozen=True)
class Optimizer:
    """AdamW. lr, weight_decay: None: the objective's own (`Objective.optimizer`), else 1e-3 and 0.01.

    A parameter group of the objective may carry values of its own, which then hold for it.
    """

    name: Literal["adamw"] = "adamw"
    lr: float | None = None
    weight_decay: float | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8


@dataclass(frozen=True)
class Schedule:
    """The learning rate over the steps: linear warm-up, then constant, or half a cosine down to `floor` times lr."""

    name: Literal["constant", "cosine"] = "constant"
    warmup: int = 0
    floor: float = 0.0

    def factor(self, step: int, steps: int) -> float:
        """The factor on the learning rate at step `step` of `steps`, counted from 0.

        Warm-up increases linearly from 1/warmup at step 0 to 1 at step warmup - 1. The cosine then decreases from 1 to
        `floor`, which it would reach at step `steps` (Loshchilov and Hutter 2017, without restarts).
        """
        if step < self.warmup:
            return (step + 1) / self.warmup
        if self.name == "constant":
            return 1.0
        progress = (step - self.warmup) / max(steps - self.warmup, 1)
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


@dataclass(frozen=True)
class Average:
    """Publish and validate the mean of the weights over the steps from `start` on (0: the last weights).

    momentum: 0: equal weights (Polyak and Juditsky 1992); else an exponential mean over about 1 / (1 - momentum) steps.
    """

    start: int = 0
    momentum: float = 0.0


@dataclass(frozen=True)
class Validate:
    """Every so many steps (0: never), and after the last: a protocol on a data root, or the caller's function."""

    every: int = 0
    protocol: str | None = None
    data: str | None = None
    limit: int | None = None
    set: tuple[str, ...] = ()  # overrides of the protocol


@dataclass(frozen=True)
class Save:
    """A state every so many steps (0: only at the end and when stopped); the last `keep` stay."""

    every: int = 1000
    keep: int = 2


@dataclass(frozen=True)
class TrainConfig:
    """The configuration of a run.

    model: parts by name, or a published model to start from, as on the command line; None: the caller's.
    objective: a registered name and its arguments; None: the caller's. data: of `objective.dataset`.
    out: folder of the run. clip_norm: of the gradient; None: not clipped, measured all the same.
    steps: of the optimizer. epochs: in their place, passes over a data set with a length, rounded up to whole steps.
    batch_size: samples a step sees, over all processes and accumulated parts, so that
        neither number changes what is trained. accumulate: parts a step is cut into, to save memory.
    device: on which everything is computed; "auto": the best there is, of several processes each its own.
    mixed_precision: of the networks. "no": float32; "tf32": float32 with a GPU's TF32 products; "bf16", "fp16":
        autocast; "auto": bf16 where the device computes in it, else float32.
    compile: compute the losses as one graph of torch.compile: the same up to rounding; it takes a while to be made.
    workers: processes that read data for each process that trains; None: see `data.reader_count`.
    resume: "auto": go on from the newest state in `out`; "never": `out` must hold none; or the folder of a state.
    wait: for the end of another run in `out`, which is refused otherwise.
    log: a line in log.jsonl every so many steps. log_with: trackers, by name; None: TensorBoard, if it is installed.
    """

    out: str
    steps: int | None = None
    epochs: float | None = None
    model: Parts | str | None = None
    objective: Part | None = None
    data: Any = None
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    average: Average = Average()
    batch_size: int = 8
    accumulate: int = 1
    clip_norm: float | None = 1.0
    device: str = "auto"
    mixed_precision: Literal["no", "tf32", "bf16", "fp16", "auto"] = "no"
    compile: bool = False
    workers: int | None = None
    seed: int = 0
    validate: Validate = field(default_factory=Validate)
    save: Save = field(default_factory=Save)
    log: int = 10
    log_with: tuple[Part, ...] | None = None
    resume: str = "auto"
    wait: bool = False

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            values = f"steps is {self.steps} and epochs is {self.epochs}"
            raise ConfigError(f"{values}; give a number for one of the two, and null, or nothing, for the other")
        for expected, least, keys in _RANGES:
            for key in keys:
                value = attrgetter(key)(self)
                if value is not None and not least <= value < math.inf:
                    raise ConfigError(f"{key} is {value}; expected {expected}")
        if self.batch_size % self.accumulate:
            raise ConfigError(f"batch_size {self.batch_size} is not a multiple of accumulate {self.accumulate}")
        if self.average.momentum >= 1 or (self.average.momentum and not self.average.start):
            raise ConfigError(
                f"average.momentum is {self.average.momentum} and average.start {self.average.start}; expected a "
                "momentum below 1, and a first step to average, from 1 on"
            )
        if self.steps is not None and self.average.start > self.steps:
            raise ConfigError(
                f"average.start is {self.average.start}, later than the last of {self.steps} steps; 0 averages nothing"
            )
        if self.validate.protocol is not None and self.validate.data is None:
            raise ConfigError(f"validate.protocol is {self.validate.protocol}; give validate.data, its data set's root")
        names = [tracker.name for tracker in self.log_with or ()]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ConfigError(f"log_with names {twice[0]} twice; a run has one record of each tracker")
        if not self.out:
            raise ConfigError("out is empty; expected the folder of the run")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values; raises ConfigError for one JSON cannot hold."""
        return json_ready(self, "the configuration")

    @classmethod
    @gateway
    def from_dict(cls, data: Mapping[str, Any], where: str = "config") -> TrainConfig:
        """Build from nested mappings.

        Raises:
            ConfigError: an unknown or missing key, or a value of the wrong type, named by its dotted path.
        """
        where = where if isinstance(where, str) else shortened(" ".join(repr(where).split()), 100)
        return typed(cls, _written_out(data) if isinstance(data, Mapping) else data, where)

    @classmethod
    @gateway
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
        """Read a preset by name or a YAML file, then apply `key=value` settings, which may supply what is left out.

        Raises:
            UnknownNameError: no such preset. FileError: the file cannot be read.
            ConfigError: as `from_dict`; or a preset of another verb.
        """
        data = load_yaml(registry().text("preset", str(path)), str(path))
        if not isinstance(data, dict):
            raise ConfigError(f"{path} is not a mapping of keys to values")
        if "verb" in data:
            raise ConfigError(f"{path} is a preset of another verb: dense-ctx {data['verb']} ... {path}")
        return cls.from_dict(_overridden(data, overrides), str(path))

    def override(self, settings: Sequence[str]) -> TrainConfig:
        """Change values: ["steps=100", "optimizer.lr=1e-4", "objective.args.k=5"]; values are YAML."""
        return self.from_dict(_overridden(self.to_dict(), settings))

    def resolved(self, samples: int) -> TrainConfig:
        """The same with `steps` in place of `epochs`, for a data set of so many samples."""
        if self.epochs is None:
            return self
        return replace(self, epochs=None, steps=math.ceil(Fraction(str(self.epochs)) * samples / self.batch_size))

    def save_yaml(self, path: Path) -> None:
        """Write what `load` reads, whole or not at all; raises FileError."""
        from ..files import write_text

        write_text(path, dump_yaml(self.to_dict()))

    def dry(self, out: Path) -> TrainConfig:
        """Two steps from the start that leave nothing but `out`, and validate nothing."""
        if self.resume not in ("auto", "never"):
            raise ConfigError(f"resume={self.resume} and a dry run, which begins at the start: leave one of them out")
        average = replace(self.average, start=min(self.average.start, 2))
        short = replace(self, steps=2, epochs=None, average=average)
        return replace(short, out=str(out), log=1, log_with=(), save=Save(0, 1), validate=Validate(), resume="never")

    def filled(self, other: Mapping[str, Any]) -> TrainConfig:
        """With the optimizer's values that this one leaves open taken from another's `to_dict`."""
        values = {key: value for key, value in other.get("optimizer", {}).items() if key in OPEN}
        own = asdict(self.optimizer)
        defaults = {key: value for key, value in values.items() if own[key] is None}
        return replace(self, optimizer=replace(self.optimizer, **defaults))

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """ "KEY: X there, Y now" for keys that differ in `other` (a `to_dict`) and may not change on resume."""
        defaults = TrainConfig(out=self.out, steps=1).to_dict()  # of keys that the other's version had not
        mine = {key: value for key, value in self.filled(other).to_dict().items() if key not in FREE}
        theirs = {key: value for key, value in {**defaults, **other}.items() if key not in FREE}
        return differences(theirs, mine)


def _overridden(data: dict[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    for setting in settings:  # objective=lila(start=4), then objective.args.start=8
        data = override(_written_out(data), setting)
    return data


def _written_out(data: Mapping[str, Any]) -> dict[str, Any]:
    """The same with mappings for BACKBONE+DECODER and NAME(key=value, ...), so that keys inside can be changed."""
    from ..model_spec import parse_model

    model, objective = data.get("model"), data.get("objective")
    changed: dict[str, Any] = {}
    if isinstance(model, str) and isinstance(parts := parse_model(model), Parts):
        changed["model"] = asdict(parts)
    elif isinstance(model, Mapping):
        changed["model"] = {key: asdict(parse_part(v)) if isinstance(v, str) else v for key, v in model.items()}
    if isinstance(objective, str):
        changed["objective"] = asdict(parse_part(objective))
    if isinstance(trackers := data.get("log_with"), (str, Mapping)):
        changed["log_with"] = [trackers]
    return {**data, **changed}
