"""Trained heads under a protocol: the model's own output is scored, and no probe is trained."""

from __future__ import annotations

from ..data.base import ImageSet, VideoSet
from ..errors import ConfigError
from ..model import DenseModel
from .protocol import Protocol
from .scorer import Scorer

HEAD = "head"  # the registered probe that returns the model's channels


def check_head(model: DenseModel, protocol: Protocol, images: ImageSet | VideoSet) -> None:
    """Refuse a head that predicts something else than the data set's targets.

    Raises:
        ConfigError: says what it predicts; classes by name.
    """
    output = None if model.model_config is None else model.model_config.output
    if output is None:
        raise ConfigError(f"{protocol.id}: probe=head, and the model gives features: it has no trained head")
    hint = "To measure its features, name a probe: probe=ridge"
    if output.task != Scorer(protocol).target:
        raise ConfigError(
            f"{protocol.id} is about {Scorer(protocol).target}; the model's head predicts {output.task}. {hint}"
        )
    if output.classes != tuple(images.classes):
        pairs = zip(output.classes, images.classes, strict=False)
        differing = next((f", {a!r} where the data has {b!r}" for a, b in pairs if a != b), "")
        counts = f"the head has {len(output.classes)} classes and the data {len(images.classes)}"
        raise ConfigError(f"{protocol.id}: {counts}{differing}. {hint}")
