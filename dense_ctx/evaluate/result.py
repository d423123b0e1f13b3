"""The result file: a score with everything needed to verify and reproduce it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import typed
from ..errors import ConfigError
from ..files import json_digest, read_json, state_digest, write_json

if TYPE_CHECKING:
    from ..model import DenseModel

FORMAT = 2


def clean(value: Any) -> Any:
    """Convert to JSON values: NaN becomes null, tuples lists."""
    if isinstance(value, dict):
        return {str(k): clean(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(v) for v in value]
    if isinstance(value, float) and value != value:
        return None
    return value


@dataclass(frozen=True)
class Result:
    """The result of one model under one protocol. An undefined score (no unseen class occurs) is NaN, in JSON null.

    value: the headline metric, mean over seeds; std: its sample standard deviation (null for one seed).
    higher_is_better: which way the headline is better.
    scores: every metric, mean over seeds. per_seed: of each seed. scenes: the headline of each clip or image alone, of
    each seed; NaN where it has none. parts: per class or object, mean over seeds; null where it does not occur.
    n: the number of images, objects, pixels ... scored.
    protocol: all its settings, with overrides. model: name, parts, digest of all weights. data: name, split, number and
    digest of the sample names. environment: versions, machine, git revision.
    run: what may differ between two identical evaluations: command, date, seconds, processes, threads, peak memory.
    """

    protocol_id: str
    metric: str
    higher_is_better: bool
    value: float
    std: float | None
    n: Mapping[str, int]
    scores: Mapping[str, float]
    per_seed: Mapping[str, Mapping[str, float]]
    scenes: Mapping[str, Mapping[str, float]]
    parts: Mapping[str, Any]
    protocol: Mapping[str, Any]
    protocol_digest: str
    model: Mapping[str, Any]
    data: Mapping[str, Any]
    environment: Mapping[str, Any]
    run: Mapping[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values; NaN becomes null."""
        return dict(clean(asdict(self)))

    def digest(self) -> str:
        """sha256 of everything but `run`: equal for two identical evaluations on one machine."""
        values = self.to_dict()
        values.pop("run")
        return json_digest(values)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write JSON, atomically."""
        return write_json(Path(path), {**self.to_dict(), "digest": self.digest()})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Result:
        """Read what `save` wrote.

        Raises:
            FileError: missing or unreadable.
            ConfigError: not a result, of a newer format, or changed after it was written.
        """
        data = read_json(Path(path))
        if not isinstance(data, dict) or "protocol_id" not in data:
            raise ConfigError(f"{path} is not a result of `dense-ctx evaluate`")
        form = data.get("format")
        if form != FORMAT:
            why = ", without each scene's scores: evaluate again, into another --out" if form == 1 else ""
            raise ConfigError(f"{path} has format {form!r}{why}; this dense_ctx reads {FORMAT}")
        digest = data.pop("digest", None)
        numbers = {key: _numbers(data[key]) for key in ("value", "scores", "per_seed", "scenes") if key in data}
        result = typed(cls, {**data, **numbers}, str(path))
        if digest != result.digest():
            raise ConfigError(f"{path} was changed after it was written: its digest does not match")
        return result


def _numbers(value: Any) -> Any:
    """Null becomes NaN, in mappings too."""
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    return math.nan if value is None else value


def describe_model(model: DenseModel, name: str) -> dict[str, Any]:
    """Name, parts, output channels, number of parameters, and a digest of all weights."""
    config = model.model_config
    return {
        "name": name,
        "backbone": None if config is None else asdict(config.backbone),
        "decoder": None if config is None else asdict(config.decoder),
        "weights": model.backbone.source,
        "dim": model.dim,
        "parameters": sum(p.numel() for p in model.parameters()),
        "digest": state_digest(model.state_dict()),
    }
