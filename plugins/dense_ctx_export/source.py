"""What is exported: a model's features, a fitted context, a predictor or a trained head, as a module and its facts."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from dense_ctx_predict.files import identity
from dense_ctx_predict.head import output_of
from dense_ctx_predict.predictor import Predictor
from dense_ctx_predict.tracking import MaskTracker
from dense_ctx_probes.bank import pooled
from dense_ctx_runtime.facts import Facts, LabelClass
from dense_ctx_runtime.geometry import Array, Size, step_of
from dense_ctx_runtime.graph_model import GraphModel
from torch import Tensor, nn
from torch.nn import functional

from dense_ctx import InContext
from dense_ctx.errors import ConfigError
from dense_ctx.files import json_digest, state_digest
from dense_ctx.images import ImageLike, load
from dense_ctx.interfaces import Backbone
from dense_ctx.model import DenseModel

from .graph import CellGraph, FeatureGraph, FilterGraph, Graph, ResizedGraph
from .heads import CellHead, KnnHead, head_of
from .tracks import KeyGraph, TrackCheck, settings_of

TIE = 2e-5  # between the cosines of the last neighbour that votes and the next: rounding decides which is which


@dataclass(frozen=True)
class Source:
    """A graph of any size, its facts, and `eager`: what it must equal, by name, for an image [3, H, W].

    ties: of an image, the pixels [H, W] whose result depends on which of two equally near neighbours is taken.
    written: what the loaded file gives in place of `eager`; None: what a call or `scores` returns.
    """

    graph: Graph
    facts: Facts
    eager: Callable[[ImageLike], dict[str, Tensor]]
    ties: Callable[[ImageLike], Tensor] | None = None
    written: Callable[[GraphModel, ImageLike], dict[str, Array]] | None = None


def source_of(given: DenseModel | InContext | Predictor | MaskTracker, size: Size | None, opset: int | None) -> Source:
    """Prepare an export.

    Raises:
        ConfigError: a probe or a head that cannot be exported, or not at any size.
        NotFittedError: the context is not fitted.
    """
    model = given if isinstance(given, DenseModel) else given.model
    if isinstance(given, InContext) or (given is model and _has_head(model)):
        given = Predictor(given)
    # a copy in float32 on the CPU: the graph's modules are changed for the export, and run on any device afterwards
    copied = copy.deepcopy(model)
    for part in copied.modules():
        if isinstance(part, Backbone):
            part.weights_dtype = None  # else they would stay in it, which ONNX Runtime does not compute in
    copied.to("cpu", torch.float32).eval()
    backbone = copied.backbone
    name = model.model_config.backbone.name if model.model_config else type(model.backbone).__name__
    decoder = model.model_config.decoder.name if model.model_config else type(model.decoder).__name__
    common: dict[str, Any] = {
        "source": f"{name}+{decoder}", "dense_ctx": version("dense-ctx"), "mean": tuple(backbone.mean),
        "std": tuple(backbone.std), "stride": backbone.stride, "strides": tuple(backbone.strides),
        "dims": tuple(backbone.dims), "dim": copied.dim, "opset": opset, "size": size,
    }  # fmt: skip
    if isinstance(given, MaskTracker):
        settings = settings_of(given)
        facts = Facts(task="track", source_digest=state_digest(model.state_dict()), track=settings, **common)
        check = TrackCheck(MaskTracker(copied, stride=given.stride), settings)
        graph_of_keys = KeyGraph(copied, given.stride)
        return Source(graph_of_keys, facts, check.eager, partial(check.ties, least=TIE), check.written)
    if isinstance(given, DenseModel):
        facts = Facts(task="features", source_digest=state_digest(model.state_dict()), **common)
        return Source(FeatureGraph(copied), facts, _features(copied))
    classes = tuple(LabelClass(item.id, item.name, item.colour) for item in given.classes)
    common |= {"task": given.task, "source_digest": json_digest(identity(given)), "classes": classes}
    if given.context is None:
        return _trained(given, copied, common, size)
    predictor = copy.copy(given)
    predictor.context = copy.copy(given.context)
    predictor.model = predictor.context.model = copied
    head = head_of(given.context, given.task)
    if isinstance(head, CellHead):
        cells: dict[str, Any] = {"cells": head.cells, "cell_stride": head.stride, "filter_radius": head.radius}
        facts = Facts(reads="cells", **cells, **common)
        graph = FilterGraph(copied, head) if head.radius else CellGraph(copied, head)
        ties = _ties(copied, head) if isinstance(head, KnnHead) else None
        return Source(graph, facts, _scores(predictor), ties)
    return Source(FeatureGraph(copied, head), Facts(**common), _scores(predictor))


def _has_head(model: DenseModel) -> bool:
    return model.model_config is not None and model.model_config.output is not None


def _trained(given: Predictor, copied: DenseModel, common: dict[str, Any], size: Size | None) -> Source:
    output = output_of(copied)
    predictor = Predictor(copied)
    head = _Meaning(output.task, len(output.classes), output.sigmoid)
    if output.image_size is None and output.size is None:
        return Source(FeatureGraph(copied, head), Facts(**common), _scores(predictor))
    if output.image_size is None:
        raise ConfigError(
            "The trained head has outputs of one size for images of every size, which no graph here expresses: set "
            "output.image_size in its config.json to the size it was trained at"
        )
    sizes: dict[str, Any] = {"image_size": output.image_size, "output_size": output.size or output.image_size}
    graph = ResizedGraph(copied, head, output.image_size, output.size or output.image_size)
    return Source(graph, Facts(reads="resized", **sizes, **common), _scores(predictor))


class _Meaning(nn.Module):
    """A trained head's channels as probabilities or values, as `dense_ctx_predict.head.meaning`."""

    def __init__(self, task: str, classes: int, sigmoid: bool) -> None:
        super().__init__()
        self.task, self.classes, self.sigmoid = task, classes, sigmoid

    def forward(self, channels: Tensor) -> Tensor:
        """[B, C, H, W] to [B, K, H, W]."""
        if self.task == "segmentation":
            return channels[:, : self.classes].softmax(1)
        if self.task == "normals":
            return functional.normalize(channels, dim=1)
        return channels.sigmoid() if self.sigmoid else channels


def _features(model: DenseModel) -> Callable[[ImageLike], dict[str, Tensor]]:
    def run(image: ImageLike) -> dict[str, Tensor]:
        with torch.inference_mode():
            features = model(image)
        named = {"pixels": features.pixels, "patches": features.patches, "cls": features.cls}
        return {name: value for name, value in named.items() if value is not None}

    return run


def _ties(model: DenseModel, head: KnnHead) -> Callable[[ImageLike], Tensor]:
    def run(image: ImageLike) -> Tensor:
        with torch.inference_mode():
            pixels = model(image).pixels
            size = (pixels.shape[-2], pixels.shape[-1])
            cells = pooled(pixels, step_of(size, head.cells, head.stride))
            gaps = head.gap(cells[0].flatten(1).T).reshape(1, 1, *cells.shape[-2:])
            return functional.interpolate((gaps < TIE).float(), size, mode="bilinear", align_corners=False)[0, 0] > 0

    return run


def _scores(predictor: Predictor) -> Callable[[ImageLike], dict[str, Tensor]]:
    def run(image: ImageLike) -> dict[str, Tensor]:
        return {"pixels": predictor.scores(load(image))[None]}

    return run
