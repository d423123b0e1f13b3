"""What all parts of a session share: its model, its items, the work done so far, one lock."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

from dense_ctx_predict import LabelClass
from dense_ctx_predict.context_files import model_identity

from dense_ctx.config import Part
from dense_ctx.errors import InputError
from dense_ctx.interfaces import Size
from dense_ctx.model import DenseModel
from dense_ctx.model_spec import open_model
from dense_ctx.partial_files import unique
from dense_ctx.tiling.budget import parse_memory

from . import saving
from .annotation import Canvas, Drawing
from .disk import DiskFeatures
from .features import FeatureStore
from .journal import Folder
from .prediction import Predictions
from .propagation import write_votes
from .source import Item, Source
from .state import Event, Work

VOTES = "propagated.safetensors"


class Base:
    """See `Session`."""

    def _setup(
        self,
        model: DenseModel | str,
        source: Source,
        method: Part,
        max_memory: str | int,
        cache_dir: str | os.PathLike[str] | None,
        max_disk: str | int,
    ) -> None:
        budget = parse_memory(max_memory)
        self._spec = model if isinstance(model, str) else None
        self.model = open_model(model) if isinstance(model, str) else model
        self.model.eval()
        self.method, self._source = method, source
        self.items: tuple[Item, ...] = source.items
        self.is_clip = source.is_clip
        self._identity = model_identity(self.model)
        room = parse_memory(max_disk)
        disk = None if cache_dir is None else DiskFeatures(Path(cache_dir), room, self._identity)
        self._store = FeatureStore(self.model, source, budget // 2, disk)
        self._work = Work([(item.height, item.width) for item in self.items])
        self._canvases: dict[int, Canvas] = {}
        self._predictions = Predictions(method, self._store)
        self._folder: Folder | None = None
        self._snapshot_due = False  # the journal cannot say what was done last: undo of what was before the snapshot
        self._id = unique()
        self._beside: list[Base] = []  # that read the same annotation by other models
        self._main: Base | None = None  # whose annotation this one reads
        self._lock = threading.RLock()
        self._closed = False

    @property
    def classes(self) -> list[LabelClass]:
        """The classes, in the order of `probabilities`."""
        return list(self._work.state.classes)

    @property
    def _readers(self) -> tuple[Base, ...]:
        """All sessions of this annotation, the one that keeps it first."""
        main = self if self._main is None else self._main
        return (main, *main._beside)

    def _do(self, event: Event, drawing: Drawing | None = None) -> tuple[int, ...]:
        if self._main is not None:
            return self._main._do(event, drawing)
        with self._lock:
            if self._closed:
                raise InputError("The session is closed: Session.open(folder) goes on")
            self._snapshot_due |= self._work.leads_beyond_snapshot(event)
            changed = self._work.apply(event, drawing)
            for each in self._readers:
                each._follow(changed)
            if self._folder is not None and self._snapshot_due:
                self._write(self._folder)
            elif self._folder is not None:
                self._folder.append(event)
            return changed

    def _write(self, folder: Folder) -> None:
        """Write all of it to a folder; raises FileError."""
        folder.prepare((saving.MODEL, saving.IMAGES, VOTES))
        folder.require_own(self._id)
        self._save_votes(folder.path)
        folder.write({
            "session": self._id,
            "model": self._identity,
            "open": saving.model_reference(self.model, self._spec, folder.path),
            "source": saving.source_reference(self._source, folder.path),
            "method": str(self.method),
            **self._work.to_json(),
        })  # fmt: skip
        self._work.snapshot_written()
        self._snapshot_due = False

    def _draw(self, item: int, drawing: Drawing, replace: bool = False) -> None:
        event: Event = {"event": "draw", "item": item, **({"replace": True} if replace else {}), **drawing.to_json()}
        if item not in self._work.digests:
            event["digest"] = self._source.digest(item)
        self._do(event, drawing)

    def _follow(self, changed: tuple[int, ...]) -> None:
        """Bring the canvases of items and the predictions up to what was done."""
        self._predictions.class_ids = {item.id for item in self._work.state.classes}
        for item in changed:
            self._canvas(item).show(self._work.state.drawings.get(item, ()))
            self._predictions.annotate(item, self._canvases[item])

    def _begin_class(self, class_id: int) -> None:
        """Let no labels that were propagated for an earlier class stand for a new one, after a kill neither."""
        if self._predictions.begin_class(class_id) and self._folder is not None:
            (self._folder.path / VOTES).unlink(missing_ok=True)  # the others are written again by `close`

    def _canvas(self, item: int) -> Canvas:
        if item not in self._canvases:
            canvas = Canvas(self._work.sizes[item])
            canvas.show(self._work.state.drawings.get(item, ()))
            self._canvases[item] = canvas
        return self._canvases[item]

    def _size(self, item: Any) -> Size:
        if not isinstance(item, int) or isinstance(item, bool) or not 0 <= item < len(self.items):
            raise InputError(f"No item {item!r:.40}; there are {len(self.items)}, from 0 on")
        return self._work.sizes[item]

    def _save_votes(self, folder: Path) -> None:
        votes = self._predictions.votes
        if votes:
            write_votes(folder / VOTES, votes)
        else:
            (folder / VOTES).unlink(missing_ok=True)
