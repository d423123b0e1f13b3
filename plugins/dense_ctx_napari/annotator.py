"""Annotator: a session that follows the strokes of a labels layer. It knows nothing of windows and threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from dense_ctx_session import Session

from dense_ctx.errors import InputError, NotFittedError
from dense_ctx.model import DenseModel

from .layers import Array, LayerSource

LAST = 254  # the greatest label of a class; 0 is not annotated
_UNKNOWN = 255  # of the session: neither annotated nor predicted
_ClassFacts = Callable[[int], tuple[str, tuple[int, int, int]]]


class Annotator:
    """Labels of an image layer from the strokes of a labels layer of its shape.

    The label n of the layers, from 1 on, is the class n - 1 of the session; 0 is not annotated.

    Args:
        model: a DenseModel, or how to open one, "lila-lite0" or as `dense-ctx` names it.
        source: the images.

    Attributes: session.

    Raises: as `Session`.
    """

    def __init__(self, model: DenseModel | str, source: LayerSource) -> None:
        self.session = Session(model, source)
        self._annotated: dict[int, Array] = {}  # the strokes that the session has, of the items that have some
        self._lock = threading.Lock()

    def follow(self, strokes: Any, class_facts: _ClassFacts) -> list[int]:
        """Bring the session's annotation to what a labels layer holds; the items that changed.

        Args:
            strokes: whole numbers [H, W], or [T, H, W] of a stack.
            class_facts: name and colour of a label that the session has not met.

        Raises:
            InputError: a label below 0 or above 254, or a class name that is taken; the items before it are changed.
        """
        changed = []
        with self._lock:
            for index in range(len(self.session.items)):
                frame, before = (
                    np.asarray(strokes[index] if self.session.is_clip else strokes),
                    self._annotated.get(index),
                )
                if np.array_equal(frame, before) if before is not None else not frame.any():
                    continue
                self._annotate(index, frame, class_facts)
                changed.append(index)
        return changed

    def _annotate(self, index: int, frame: Array, class_facts: _ClassFacts) -> None:
        frame = np.array(frame)  # the brush goes on while this runs: what is learnt must be what is remembered
        present = np.unique(frame)
        if present[0] < 0 or present[-1] > LAST:
            wrong = present[-1] if present[-1] > LAST else present[0]
            raise InputError(f"The strokes hold the label {wrong}; expected 1 to {LAST} for classes, and 0 elsewhere")
        classes = {item.id for item in self.session.classes}
        for label in present[present > 0].tolist():
            if label - 1 not in classes:
                self.session.add_class(*class_facts(label), class_id=label - 1)
        if not frame.any():
            self.session.clear(index)
            del self._annotated[index]
            return
        annotation = np.where(frame == 0, _UNKNOWN, frame - 1).astype(np.uint8)
        self.session.mask_label(index, annotation, replace=True)
        self._annotated[index] = frame.astype(np.uint8)

    def rename(self, label: int, name: str) -> None:
        """Give the class of a label another name; one that has not been painted yet gets it when it is.

        Raises:
            InputError: the name is taken, empty or too long.
        """
        if any(item.id == label - 1 for item in self.session.classes):
            self.session.rename_class(label - 1, name)

    def labels(self, index: int) -> Array:
        """uint8 [H, W]: labels as in the layer; 0 beside the strokes while fewer than two classes are painted."""
        labels = self.session.labels(index)
        return np.where(labels == _UNKNOWN, 0, labels + 1).astype(np.uint8)

    def uncertainty(self, index: int) -> Array | None:
        """float32 [H, W] in [0, 1], as `Session.uncertainty`; None while nothing can be predicted."""
        try:
            return self.session.uncertainty(index)
        except NotFittedError:
            return None

    def propagate(self) -> Iterator[tuple[int, Array]]:
        """Carry the labels through a stack; yields each frame and its labels. Raises: as `Session.propagate`."""
        for index in self.session.propagate():
            yield index, self.labels(index)

    def export(self, folder: Path, format: str) -> Path:
        """Write the labels of all frames; as `Session.export`."""
        return self.session.export(folder, format)

    def close(self) -> None:
        """Stop the session's background."""
        self.session.close()
