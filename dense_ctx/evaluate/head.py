"""Trained heads under a protocol: the model's own output is scored, and no probe is trained."""

from __future__ import annotations

import json
from dataclasses import replace

from ..config import Output
from ..data.base import ImageSet, VideoSet
from ..errors import ConfigError
from ..model import DenseModel
from .protocol import Protocol
from .scorer import Scorer

HEAD = "head"  # the registered probe that returns the model's channels


def scored_by_head(model: DenseModel, protocol: Protocol) -> Protocol:
    """The protocol with the head as its probe, at the head's training size; unchanged for a model without a head.

    Changed settings become part of the protocol's id.
    """
    output = _output(model)
    if output is None:
        return protocol
    seen, given = output.image_size or (1, 1), output.size or output.image_size or (1, 1)
    shares = {(a / b) for a, b in zip(seen, given, strict=True)}  # pixels to a cell of the outputs
    grid = next(iter(shares)) if len(shares) == 1 else 1.0
    decode, cell = ("grid", int(grid)) if grid > 1 and grid == int(grid) else ("full", 1)
    settings = [f"probe={HEAD}", "reads=pixels", f"decode={decode}", f"grid={cell}", "train=null", "support=null"]
    if output.image_size is not None:
        settings += [f"image.size={json.dumps(output.image_size)}", "image.short_side=null", "image.stride=null"]
    same = {item: replace(protocol.override([item]), overrides=protocol.overrides) == protocol for item in settings}
    return protocol.override([item for item in settings if not same[item]])


def check_head(model: DenseModel, protocol: Protocol, images: ImageSet | VideoSet) -> None:
    """Refuse a head that predicts something else than the data set's targets.

    Raises:
        ConfigError: says what it predicts; classes by name.
    """
    output, target = _output(model), Scorer(protocol).target
    if output is None:
        raise ConfigError(f"{protocol.id}: probe=head, and the model gives features: it has no trained head")
    hint = "To measure its features, name a probe: probe=ridge"
    if output.task != target:
        raise ConfigError(f"{protocol.id} is about {target}; the model's head predicts {output.task}. {hint}")
    if output.classes != tuple(images.classes):
        pairs = zip(output.classes, images.classes, strict=False)
        differing = next((f", {a!r} where the data has {b!r}" for a, b in pairs if a != b), "")
        counts = f"the head has {len(output.classes)} classes and the data {len(images.classes)}"
        raise ConfigError(f"{protocol.id}: {counts}{differing}. {hint}")


def _output(model: DenseModel) -> Output | None:
    return None if model.model_config is None else model.model_config.output
