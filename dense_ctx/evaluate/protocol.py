"""A protocol: everything that decides a benchmark's number, under a name and a version."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ..config import Part, load_yaml, override, typed
from ..errors import ConfigError, FileError
from ..plugins import registry
from .settings import check

TaskName = Literal["segmentation", "zero-shot", "depth", "normals", "video"]
METRICS: Mapping[str, tuple[str, ...]] = {
    "segmentation": ("miou", "pixel_accuracy", "mean_accuracy"),
    "zero-shot": ("harmonic", "seen", "unseen", "miou", "pixel_accuracy"),
    "depth": ("rmse", "abs_rel", "log10", "silog", "delta1", "delta2", "delta3"),
    "normals": ("rmse", "mean", "delta1", "delta2", "delta3"),
    "video": ("J&F-Mean", "J-Mean", "J-Recall", "J-Decay", "F-Mean", "F-Recall", "F-Decay"),
}
LOWER_IS_BETTER = frozenset({"rmse", "abs_rel", "log10", "silog", "mean"})


@dataclass(frozen=True)
class Data:
    """Which data set (`dense_ctx.data`), which splits, and its options."""

    name: str
    train: str | None = None
    val: str = "val"
    options: Mapping[str, Any] = field(default_factory=dict)
    fraction: float = 1.0  # of the training images, a seeded sample: 1/8, 1/64 ... for few-shot retrieval


@dataclass(frozen=True)
class ImageSpec:
    """How an image comes to the model.

    short_side: resize so that the shorter side has so many pixels (bilinear, antialiased); null: as it is.
    size: [H, W] to resize to instead, whatever the aspect.
    """

    short_side: int | None = None
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Train:
    """How a probe that takes gradient steps is trained; null in the protocol for closed-form probes.

    steps, batch: of gradient descent. scale: range of a random resize. crop: [H, W] cut at random, padded with ignored
    pixels. flip: mirror half of the images. label_stride: the loss sees every n-th pixel of the annotation.
    """

    steps: int
    batch: int = 8
    scale: tuple[float, float] = (1.0, 1.0)
    crop: tuple[int, int] | None = None
    flip: bool = False
    label_stride: int = 1


@dataclass(frozen=True)
class Scoring:
    """Conventions of the metric; see `dense_ctx.metrics`.

    mask_side: score on annotations shrunk to this short side (nearest), as some evaluators do; null: as they are.
    """

    matching: Literal["none", "hungarian", "many_to_one"] = "none"
    absent: Literal["left_out", "zero"] = "left_out"
    low: float = 0.001
    high: float = 10.0
    align: Literal["none", "median", "scale_shift"] = "none"
    mask_side: int | None = None
    unseen: tuple[str, ...] = ()


@dataclass(frozen=True)
class Protocol:
    """A named, versioned benchmark.

    id: "davis2017-linear-v1"; with overrides the resolved id names them too, so that results cannot be mixed up.
    grid: pixels per cell of the features the probe reads. reads: "pixels" (decoder), "patches" (encoder) or "both".
    precision: in which the network runs; probes and metrics are always in float32.
    source: where the settings come from. notes: what was chosen where the source is silent.
    """

    id: str
    task: TaskName
    data: Data
    probe: Part
    metric: str
    title: str = ""
    image: ImageSpec = ImageSpec()
    grid: int = 4
    reads: Literal["pixels", "patches", "both"] = "pixels"
    precision: Literal["float32", "bfloat16"] = "float32"
    train: Train | None = None
    scoring: Scoring = Scoring()
    source: str = ""
    notes: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check(self)

    @property
    def resolved_id(self) -> str:
        """The id with its overrides: "camvid-linear-v1 [grid=8]"."""
        return f"{self.id} [{' '.join(self.overrides)}]" if self.overrides else self.id

    @property
    def lower_is_better(self) -> bool:
        """Whether a smaller headline value is the better one."""
        return self.metric in LOWER_IS_BETTER

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values

    def digest(self) -> str:
        """sha256 of everything that decides the number."""
        values = self.to_dict()
        for key in ("title", "source", "notes"):
            values.pop(key)
        if self.precision == "float32":  # results made before there was a choice keep their digest
            values.pop("precision")
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    def override(self, settings: Sequence[str]) -> Protocol:
        """Change values: ["grid=8", "train.steps=100", "probe.args.k=5"]; values are YAML.

        Raises:
            ConfigError: not key=value, a key that does not exist, two values for one key.
        """
        if not settings:
            return self
        for setting in settings:
            if (key := setting.partition("=")[0].strip()) in ("id", "overrides"):
                raise ConfigError(f"{setting!r}: {key} cannot be overridden")
        values = override(self.to_dict(), *settings)
        # of several settings of one key the last one counts
        given = tuple(sorted({item.partition("=")[0]: item for item in (*self.overrides, *settings)}.values()))
        return replace(typed(Protocol, values, self.id), overrides=given)


def names() -> list[str]:
    """Ids of the registered protocols."""
    return registry().names("protocol")


def load_protocol(name: str | Protocol, overrides: Sequence[str] = ()) -> Protocol:
    """A registered protocol by id, or one from a YAML file (a path that ends in .yaml).

    Raises:
        UnknownNameError: no such id; the closest are listed.
        FileError, ConfigError: a file that cannot be read or is no protocol.
    """
    if isinstance(name, Protocol):
        return name.override(overrides)
    if name.endswith((".yaml", ".yml")):
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise FileError(f"Cannot read the protocol {name}: {error}") from None
    else:
        text = registry().file("protocol", name).read_text(encoding="utf-8")
    return typed(Protocol, load_yaml(text, name), name).override(overrides)
