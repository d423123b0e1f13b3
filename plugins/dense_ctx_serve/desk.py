"""What the handlers of routes share: the model, one thread that runs it, sources of annotation, pictures."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from dense_ctx_http.refusals import Refusal
from dense_ctx_http.worker import Worker
from dense_ctx_predict import Predictor
from dense_ctx_predict.context_files import model_identity
from dense_ctx_predict.files import identity
from starlette.requests import Request

from dense_ctx.config import Part
from dense_ctx.errors import InputError
from dense_ctx.files import json_digest
from dense_ctx.model import DenseModel
from dense_ctx.tiling.budget import split_budget

from .examples import Examples
from .folder import LabelFolder
from .pictures import PictureSessions, StoredPictures

T = TypeVar("T")


class Desk:
    """The state of one server.

    Args:
        model: whose features. head: predicts by itself, without examples; None: from examples.
        method: the probe of predictions from examples. max_memory: of one prediction, and of what sessions keep.
        folder: of label files, for X-AnyLabeling.

    Attributes:
        identity: of what predicts: the model and the method, or the head.
        worker: runs all that needs the model.
        place: a folder for pictures, gone when the server ends. stored: pictures in it.
        pictures: sessions over one picture each.
        memory: bytes of max_memory.

    Raises:
        InputError: the head predicts no classes.
    """

    def __init__(
        self,
        model: DenseModel,
        head: Predictor | None,
        method: Part,
        max_memory: str | int,
        folder: LabelFolder | None = None,
    ) -> None:
        if head is not None and head.task != "segmentation":
            raise InputError(f"The model predicts {head.task}; annotation tools take classes: name a model of classes")
        self.model, self.head, self.method, self.max_memory = model, head, method, max_memory
        predicts = [model_identity(model), str(method)] if head is None else identity(head)
        self.identity = json_digest(predicts)
        self.folder = folder
        self.folder_examples = self.examples()
        self._place = tempfile.TemporaryDirectory(prefix="dense-ctx-serve-")
        self.place = Path(self._place.name)
        self.stored = StoredPictures(self.place)
        self.memory = split_budget(max_memory)[0]
        self.pictures = PictureSessions(model, self.memory // 2)
        self.worker = Worker()
        self._closing: list[Callable[[], None]] = []

    def examples(self) -> Examples:
        """A predictor of examples that has learnt nothing yet."""
        return Examples(self.model, self.method, self.max_memory)

    def at_end(self, call: Callable[[], None]) -> None:
        """Have something called when the server ends."""
        self._closing.append(call)

    def leave(self) -> None:
        """The server ends: no one waits."""

    def close(self) -> None:
        """End the worker, close sessions, remove pictures."""
        self.worker.stop()
        for call in self._closing:
            call()
        self.pictures.close()
        self._place.cleanup()


def desk_of(request: Request) -> Desk:
    """The desk of the server."""
    desk: Desk = request.app.state.desk
    return desk


def text_of(body: Any, key: str) -> str:
    """A text of a body; refused without it."""
    value = body.get(key) if isinstance(body, dict) else None
    if not isinstance(value, str) or not value:
        raise Refusal(f"{key}={value!r:.60}", "a text", f"send {key}")
    return value


def list_of(body: Any, key: str, most: int) -> list[Any]:
    """A list of a body with at least one item and at most `most`; refused otherwise."""
    value = body.get(key) if isinstance(body, dict) else None
    if not isinstance(value, list) or not 1 <= len(value) <= most:
        text = f"{len(value)} items" if isinstance(value, list) else f"{value!r:.60}"
        raise Refusal(f"{key}={text}", f"a list of 1 to {most:,}", f"send {key}")
    return value
