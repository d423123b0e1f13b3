"""A predictor that follows annotated images: it learns those that are added, and begins again where others changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from dense_ctx_http.refusals import Refusal
from dense_ctx_labels.annotation import LabelArray
from dense_ctx_labels.classes import Classes
from dense_ctx_predict import Predictor

from dense_ctx import InContext
from dense_ctx.config import Part
from dense_ctx.errors import InputError
from dense_ctx.files import json_digest
from dense_ctx.model import DenseModel


@dataclass(frozen=True)
class Example:
    """An annotated image. digest: of its annotation. image: its file. labels: integers [H, W], ids of the classes."""

    name: str
    digest: str
    image: Callable[[], Path]
    labels: Callable[[Path], LabelArray]


@dataclass(frozen=True)
class Prediction:
    """Labels of an image, integers [H, W], places in the classes; certainty: the mean margin, 0 to 1.

    shares: float32 [K, H, W] of the classes in `ids`.
    """

    labels: LabelArray
    certainty: float
    shares: torch.Tensor
    ids: tuple[int, ...]


class Examples:
    """The predictor of some annotated images.

    Args:
        model, part: whose features, and the registered probe that reads them. max_memory: of one image's prediction.

    Attributes: version: of what was learnt; "" before.
    """

    def __init__(self, model: DenseModel, part: Part, max_memory: str | int) -> None:
        self._model, self._part, self._memory = model, part, max_memory
        self._context: InContext | None = None
        self._learnt: tuple[Classes, frozenset[str]] | None = None
        self.version = ""

    def follow(self, classes: Classes, examples: Sequence[Example]) -> None:
        """Learn these examples, those that are not known yet alone where nothing else has changed.

        Raises:
            Refusal: there is none, or none with an annotated pixel. InputError: a single class is annotated.
            FileError: an image cannot be read.
        """
        version = version_of(classes, examples)
        if version == self.version:
            return
        if not examples:
            raise Refusal("no annotated image", "one at least", "annotate at least one image, then ask again", 409)
        keys = [f"{example.digest} {example.name}" for example in examples]
        context, members = self._context, frozenset[str]()
        if context is not None and self._learnt is not None and self._learnt[0] == classes:
            members = self._learnt[1]
        if context is None or not members or not members <= set(keys):
            context, members = (
                InContext(self._model, self._part.name, "segmentation", classes.ignore, **self._part.args),
                frozenset(),
            )
        self._context, self._learnt, self.version = None, None, ""  # half learnt is not learnt
        for key, example in zip(keys, examples, strict=True):
            if key not in members:
                path = example.image()
                labels = example.labels(path)
                if bool((labels != classes.ignore).any()):
                    context.partial_fit(path, labels.astype(np.int64), self._memory)
        if len(context.classes_) < 2:
            names = ", ".join(classes.names[i] for i in context.classes_) or "no class"
            raise Refusal(f"annotation of {names}", "of two classes at least", "annotate another class", 409)
        self._context, self._learnt, self.version = context, (classes, frozenset(keys)), version

    def predictor(self) -> Predictor:
        """The predictor of what was learnt; its classes have ids and names of those given to `follow`."""
        context, lesson = self._context, self._learnt
        if context is None or lesson is None:
            raise InputError("Nothing was learnt yet: call follow(classes, examples)")
        names = {index: lesson[0].names[index] for index in context.classes_}
        return Predictor(context, None, names)


def version_of(classes: Classes, examples: Sequence[Example]) -> str:
    """What stands for annotated images: another one where anything about them changed."""
    return json_digest([classes.names, sorted([one.name, one.digest] for one in examples)])[:12]


def predict(predictor: Predictor, image: Path, dtype: np.dtype[np.generic], max_memory: str | int) -> Prediction:
    """Predict an image.

    Args:
        dtype: of the labels.

    Raises:
        FileError: it cannot be read.
    """
    shares = predictor.scores(image, max_memory)
    ids = tuple(item.id for item in predictor.classes)
    best = shares.topk(2, dim=0)
    labels = np.array(ids, dtype=dtype)[best.indices[0].numpy()]
    certainty = float((best.values[0] - best.values[1]).mean().clamp(0, 1))
    return Prediction(labels, certainty, shares, ids)
