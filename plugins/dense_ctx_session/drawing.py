"""The annotation of a session: classes, strokes, masks, marks; with undo and redo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from dense_ctx_predict import LabelClass

from dense_ctx.errors import InputError
from dense_ctx.gateway import gateway

from .annotation import LabelMap, Stroke, mask_of, stroke_of
from .base import Base
from .state import free_id, new_class

MARKS = ("accepted", "rejected")


class Drawing(Base):
    """See `Session`."""

    @gateway
    def add_class(self, name: str, colour: Sequence[int] | None = None, class_id: int | None = None) -> LabelClass:
        """Add a class; default colour the VOC palette's.

        Args:
            class_id: 0 to 253; default the least id that none has or had, while there is one.

        Raises:
            InputError: the name is taken or empty, the colour is not (R, G, B), the id is taken or no id, or there are
                254 classes.
        """
        with self._lock:
            own = None if class_id is None else free_id(class_id, self.classes)
            new = new_class(self.classes, name, colour, own, self._work.used)
            for each in self._readers:
                each._begin_class(new.id)
            self._do({"event": "class", "class": asdict(new)})
            return new

    @gateway
    def rename_class(self, class_id: int, name: str, colour: Sequence[int] | None = None) -> LabelClass:
        """Give a class another name, and a colour where one is given. Errors as `add_class`; no such class."""
        with self._lock:
            old = self._class(class_id)
            new = new_class(self.classes, name, old.colour if colour is None else colour, old.id)
            self._do({"event": "class", "class": asdict(new)})
            return new

    @gateway
    def remove_class(self, class_id: int) -> None:
        """Remove a class and what was drawn of it, as if it had never been there. Raises InputError: no such class."""
        with self._lock:
            self._do({"event": "remove", "id": self._class(class_id).id})

    def _class(self, class_id: Any) -> LabelClass:
        for item in self._work.state.classes:
            if item.id == class_id and not isinstance(class_id, bool):
                return item
        ids = ", ".join(str(item.id) for item in self._work.state.classes)
        raise InputError(f"No class has the id {class_id!r:.40}; there are {ids or 'none yet: add_class(name)'}")

    @gateway
    def stroke(self, item: int, class_id: int | None, points: Any, radius: float) -> int:
        """Draw a line of a brush; the stroke's id.

        Args:
            class_id: None erases what is annotated there.
            points: float [N, 2], x and y in pixels of the image; (0, 0) is the corner of the first pixel. What lies
                outside of the image is cut off.
            radius: of the brush, in pixels.

        Raises:
            InputError: no such item or class; NaN; a stroke that touches no pixel of the image.
            FileError: it cannot be saved; it is kept in memory.
        """
        with self._lock:
            size = self._size(item)
            if class_id is not None:
                class_id = self._class(class_id).id  # a plain int, whatever came
            drawing = stroke_of(self._work.next_id, class_id, points, radius, size)
            self._draw(item, drawing)
            return drawing.id

    @gateway
    def mask_label(self, item: int, labels: Any, replace: bool = False) -> int:
        """Annotate an item by a mask, whole numbers [H, W], 255 where it says nothing; its id.

        Args:
            replace: it takes the place of all that is drawn on the item, in one change; default: it is drawn over it.

        Raises:
            InputError: another size than the image's, an id without a class, 255 everywhere. FileError: as `stroke`.
        """
        with self._lock:
            ids = [c.id for c in self._work.state.classes]
            drawing = mask_of(self._work.next_id, labels, self._size(item), ids)
            self._draw(item, drawing, replace)
            return drawing.id

    @gateway
    def undo(self) -> tuple[int, ...]:
        """Take the last change of annotation or classes back; the items whose annotation changed."""
        return self._do({"event": "undo"})

    @gateway
    def redo(self) -> tuple[int, ...]:
        """Do again what was undone last; the items whose annotation changed."""
        return self._do({"event": "redo"})

    @gateway
    def clear(self, item: int) -> None:
        """Remove the annotation of an item."""
        with self._lock:
            self._size(item)
            self._do({"event": "clear", "item": item})

    @gateway
    def strokes(self, item: int) -> list[Stroke]:
        """The strokes of an item, in order: id, class_id (None erases), points, radius."""
        with self._lock:
            self._size(item)
            return [d for d in self._work.state.drawings.get(item, ()) if isinstance(d, Stroke)]

    @gateway
    def annotation(self, item: int) -> LabelMap:
        """What is drawn on an item: uint8 [H, W], class ids, 255 where nothing is."""
        with self._lock:
            self._size(item)
            return self._canvas(item).labels.copy()

    @gateway
    def mark(self, item: int, mark: str | None) -> None:
        """Mark an item as "accepted" or "rejected", or take the mark away (None)."""
        if mark is not None and mark not in MARKS:
            raise InputError(f"A mark is {' or '.join(map(repr, MARKS))}, or None; got {mark!r:.40}")
        with self._lock:
            self._size(item)
            self._do({"event": "mark", "item": item, "mark": mark})

    @gateway
    def status(self, item: int) -> str | None:
        """The mark of an item."""
        self._size(item)
        return self._work.marks.get(item)
