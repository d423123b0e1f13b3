"""ModelConfig: the config.json of a model folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import ConfigError
from .output import Output
from .part import Part
from .reader import json_ready, typed

FORMAT_VERSION = 1


@dataclass(frozen=True)
class ModelConfig:
    """The config.json of a model folder.

    format_version: layout of the folder; a newer one is refused. model_type: for transformers' Auto classes.
    backbone, decoder: what to build.
    backbone_tensors: names of the backbone's tensors stored in the checkpoint (fine-tuned, LoRA; all if standalone).
    backbone_digest: sha256 over the backbone's other tensors, which its own source provides; "" if standalone.
    dtype: floating-point type in which the model is opened and the digest was computed.
    plugins: distribution and version of each plugin the parts came from.
    output: what the decoder's channels are, if they are a prediction; null: features.
    trained_with: free-form record of the training (objective, data, steps ...).
    """

    backbone: Part
    decoder: Part
    format_version: int = FORMAT_VERSION
    model_type: Literal["dense_ctx"] = "dense_ctx"
    backbone_tensors: tuple[str, ...] = ()
    backbone_digest: str = ""
    dtype: Literal["float32", "float64", "bfloat16", "float16"] = "float32"
    plugins: Mapping[str, str] = field(default_factory=dict)
    output: Output | None = None
    trained_with: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values; raises ConfigError for an argument JSON cannot hold."""
        return json_ready(self, "the model's configuration")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "config") -> ModelConfig:
        """Read back what `to_dict` wrote; `where` names the file in errors."""
        version = data.get("format_version") if isinstance(data, Mapping) else None
        if not isinstance(version, int) or version < 1:
            raise ConfigError(
                f"{where}: format_version is {version!r:.40}, not a whole number from 1 on: is this a dense_ctx model?"
            )
        if version > FORMAT_VERSION:
            raise ConfigError(
                f"{where}: format version {version} is newer than {FORMAT_VERSION}, the newest this dense_ctx reads: "
                "pip install --upgrade dense-ctx"
            )
        return typed(cls, data, where)
