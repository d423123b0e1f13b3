"""What an exported file says of itself, as JSON in its metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from dense_ctx.errors import CheckpointError

FORMAT_VERSION = 1
FACTS = "dense_ctx"  # the key of the metadata
TASKS = ("features", "segmentation", "depth", "normals", "regression", "track")
CALIBRATION = {"spreads", "apart", "positions"}
READS = ("pixels", "cells", "resized")


@dataclass(frozen=True)
class LabelClass:
    """A class: its id in masks, its name, its colour (R, G, B)."""

    id: int
    name: str
    colour: tuple[int, int, int]


@dataclass(frozen=True)
class Facts:
    """All that a program needs to run the graph.

    task: "features", what is predicted, or "track". classes: in the order of the score channels.
    size: (H, W) that the graph takes; None: any, padded to multiples of `stride`.
    reads: "pixels": the result is of the padded image, and cut; "cells": the head reads means of `cells` (at most so
        many, of `cell_stride` pixels a side if that is set), described by inputs of their own; "resized": image and
        result are resized by matrices, inputs too, to and from `image_size` and `output_size`.
    filter_radius: of a head that reads four pixels of each cell: the guided filter's, in half cells, 0: none; None:
        a head of means of all pixels.
    mean, std: of the normalisation, which is part of the graph; images are RGB in [0, 1].
    strides, dims: of the backbone's maps. dim: channels of a pixel feature.
    source, source_digest: name and sha256 of what was exported; dense_ctx: the version that wrote it.
    verified: largest differences from the source, relative to its largest value: {size, input, error, ties}, ties the
        share of pixels that are left out because two neighbours are equally near.
    quantisation: of an int8 graph, of its calibration images: spreads, how each channel of the deepest map varies over
        each (logarithms of standard deviations); apart, the largest distance of one to the nearest other; positions,
        the fewest of a map.
    track: of a tracking graph its settings, those of `dense_ctx_predict.track`: stride, n_last_frames,
        size_mask_neighborhood, topk, temperature.
    """

    task: str
    source: str
    source_digest: str
    dense_ctx: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    stride: int
    strides: tuple[int, ...]
    dims: tuple[int, ...]
    dim: int
    opset: int | None = None
    size: tuple[int, int] | None = None
    reads: str = "pixels"
    cells: int = 0
    cell_stride: int | None = None
    filter_radius: int | None = None
    image_size: tuple[int, int] | None = None
    output_size: tuple[int, int] | None = None
    classes: tuple[LabelClass, ...] = ()
    verified: tuple[Mapping[str, Any], ...] = ()
    quantisation: Mapping[str, Any] | None = None
    track: Mapping[str, Any] | None = None
    format_version: int = field(default=FORMAT_VERSION)

    def to_json(self) -> str:
        """For the metadata."""
        return json.dumps(asdict(self), allow_nan=False)


def read_facts(text: str, name: str) -> Facts:
    """The facts in a file's metadata.

    Raises:
        CheckpointError: of another version, or not as this version writes them.
    """
    try:
        given = json.loads(text)
        version = given["format_version"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CheckpointError(f"{name} has metadata of dense_ctx that cannot be read: {error!r:.100}") from None
    if version != FORMAT_VERSION:
        writer = str(given.get("dense_ctx"))[:40]
        raise CheckpointError(
            f"{name} has format {version!r:.40}, written by dense_ctx {writer}; this version reads {FORMAT_VERSION}: "
            "export the model again with this one, or install that one"
        )
    try:
        classes = tuple(LabelClass(int(c["id"]), str(c["name"]), tuple(c["colour"])) for c in given["classes"])
        known = {key: _tuples(value) for key, value in given.items()} | {"classes": classes}
        facts = Facts(**known)
        whole = [facts.stride, *facts.strides, *facts.dims, *(facts.size or ()), *(facts.image_size or ())]
        right = facts.task in TASKS and facts.reads in READS and all(type(n) is int and n > 0 for n in whole)
        right = right and (facts.quantisation is None or set(facts.quantisation) == CALIBRATION)
        right = right and (facts.task == "track") == (facts.track is not None)
        if facts.track is not None:
            counts = [facts.track[name] for name in ("n_last_frames", "size_mask_neighborhood")]
            least = [facts.track["stride"] - 1, facts.track["topk"] - 1]
            right = right and all(type(n) is int and n >= 0 for n in counts + least)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{name} has metadata of dense_ctx that is not complete: {error!r:.100}") from None
    if not right or len(given) != len(fields(Facts)):
        raise CheckpointError(f"{name} has metadata of dense_ctx with values that this version never writes")
    return facts


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
