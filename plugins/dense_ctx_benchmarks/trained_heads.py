"""A model with a trained head under a protocol: scored as it is, at the size at which it was trained."""

from __future__ import annotations

import json
from dataclasses import replace

from dense_ctx.evaluate import Protocol
from dense_ctx.evaluate.head import HEAD
from dense_ctx.model import DenseModel


def scored_by_head(model: DenseModel, protocol: Protocol) -> Protocol:
    """The protocol with the head as its probe, at the head's training size; unchanged for a model without a head.

    Changed settings become part of the protocol's id.
    """
    output = None if model.model_config is None else model.model_config.output
    if output is None:
        return protocol
    pixels, cells = output.image_size or (1, 1), output.size or output.image_size or (1, 1)
    shares = {(a / b) for a, b in zip(pixels, cells, strict=True)}  # pixels to a cell of the outputs
    grid = next(iter(shares)) if len(shares) == 1 else 1.0
    decode, cell = ("grid", int(grid)) if grid > 1 and grid == int(grid) else ("full", 1)
    settings = [f"probe={HEAD}", "reads=pixels", f"decode={decode}", f"grid={cell}", "train=null", "support=null"]
    if output.image_size is not None:
        settings += [f"image.size={json.dumps(output.image_size)}", "image.short_side=null", "image.stride=null"]
    same = {item: replace(protocol.override([item]), overrides=protocol.overrides) == protocol for item in settings}
    return protocol.override([item for item in settings if not same[item]])
