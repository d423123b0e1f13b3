"""Protocol: everything that determines a benchmark's result, under a name and a version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ..config import Part, json_ready, load_yaml, override, typed
from ..errors import ConfigError
from ..files import json_digest
from ..gateway import gateway
from ..interfaces import Reads
from ..plugins import registry
from .sections import Data, ImageSpec, Scoring, Support, Train, expect

Decode = Literal["full", "grid"]
Precision = Literal["float32", "tfloat32", "bfloat16"]
NOT_DECIDING = ("title", "source", "notes")  # texts, which do not affect the result


@dataclass(frozen=True)
class Protocol:
    """A named, versioned benchmark.

    id: "davis2017-linear-grid4-v1"; with overrides the resolved id names them too, so that results cannot be mixed up.
    task: the kind of task, and the registered metric of that name, unless `scorer` names another.
    metric: the headline, one of the metric's scores. scorer: null, or a registered metric with its arguments.
    grid: pixels per cell of the features the probe reads. decode: "full": the decoder gives every pixel, and a cell is
        the pixel in its middle; "grid": the decoder runs at the grid's size, which is faster and gives other features.
    reads: "pixels" (decoder), "patches" (encoder) or "both". With `train` the probe gets both maps and reads these;
        without, they are the `pixels` that it gets, concatenated for "both" (see `dense_ctx.FitContext`).
    support: how the training images of a closed-form probe are selected and augmented; null: all, unchanged.
    precision: in which the network runs; "tfloat32": float32 whose products and convolutions a GPU computes in TF32.
        Probes and metrics are in float32 (of "tfloat32", with its products).
    source: where the settings come from. notes: choices where the source states nothing.
    """

    id: str
    task: str
    data: Data
    probe: Part
    metric: str
    title: str = ""
    image: ImageSpec = field(default_factory=ImageSpec)
    grid: int = 4
    decode: Decode = "full"
    reads: Reads = "pixels"
    precision: Precision = "float32"
    train: Train | None = None
    support: Support | None = None
    scoring: Scoring = field(default_factory=Scoring)
    scorer: Part | None = None
    source: str = ""
    notes: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        expect(bool(self.id) and "/" not in self.id, "id", self.id, "a name without /")
        expect(self.grid >= 1, f"{self.id}: grid", self.grid, "a whole number of pixels, at least 1")
        once = self.train is None or self.support is None
        expect(once, f"{self.id}: support", self.support, "null beside train, which has its own augmentation")
        crops = self.support is not None and self.support.passes > 0
        expect(not crops or self.image.size is not None, f"{self.id}: image.size", None, "[height, width] of the crops")

    @property
    def resolved_id(self) -> str:
        """The id with its overrides: "camvid-linear-grid4-v1 [grid=8]"."""
        return f"{self.id} [{' '.join(self.overrides)}]" if self.overrides else self.id

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return json_ready(self, "the protocol")

    def digest(self) -> str:
        """sha256 of everything that affects the result."""
        values = {key: value for key, value in self.to_dict().items() if key not in NOT_DECIDING}
        del values["image"]["stride"]  # refuses models, and decides no number
        return json_digest(values)

    def override(self, settings: Sequence[str]) -> Protocol:
        """Change values: ["grid=8", "train.steps=100", "probe.args.k=5"]; values are YAML.

        Raises:
            ConfigError: not key=value, or a key that does not exist.
        """
        if not settings:
            return self
        for setting in settings:
            if (key := setting.partition("=")[0].strip()) in ("id", "overrides"):
                raise ConfigError(f"{setting!r}: {key} cannot be overridden")
        values = override(self.to_dict(), *settings)
        # of several settings of one key the last one counts
        changes = tuple(sorted({item.partition("=")[0]: item for item in (*self.overrides, *settings)}.values()))
        return replace(typed(Protocol, values, self.id), overrides=changes)


def names() -> list[str]:
    """Ids of the registered protocols."""
    return registry().names("protocol")


@gateway
def load_protocol(name: str | Protocol, overrides: Sequence[str] = ()) -> Protocol:
    """A registered protocol by id, or one from a YAML file (a path ending in .yaml).

    Raises:
        UnknownNameError: no such id; the closest are listed.
        FileError, ConfigError: the file cannot be read, or is no protocol.
    """
    if isinstance(name, Protocol):
        return name.override(overrides)
    return typed(Protocol, load_yaml(registry().text("protocol", name), name), name).override(overrides)
