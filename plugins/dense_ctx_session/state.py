"""What a user did: classes, drawings and marks, as events; with undo and redo."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from dense_ctx_predict import LabelClass

from dense_ctx.errors import CheckpointError, InputError
from dense_ctx.interfaces import Size
from dense_ctx.visualize import palette

from .annotation import LIMIT, Drawing, Drawings, drawing_from_json, without_class

Event = dict[str, Any]
_LONGEST = 200  # letters of a class' name


@dataclass(frozen=True)
class State:
    """Classes, and the drawings of each item that has some. Never changed, only replaced."""

    classes: tuple[LabelClass, ...] = ()
    drawings: Mapping[int, Drawings] = field(default_factory=dict)

    def with_drawings(self, item: int, drawings: Drawings) -> State:
        """With other drawings of an item."""
        rest = {key: value for key, value in self.drawings.items() if key != item}
        return replace(self, drawings={**rest, item: drawings} if drawings else rest)


class Work:
    """The state, the states before and behind it, and the marks. Events change it, also those read from a journal.

    Args:
        sizes: (H, W) of the items.

    Attributes: revision: how many events there were, those before a restart among them. used: ids that a class has or
    had since the session was opened.
    """

    def __init__(self, sizes: Sequence[Size]) -> None:
        self.sizes, self.state = sizes, State()
        self.marks: dict[int, str] = {}
        self.next_id = 1
        self.digests: dict[int, str] = {}  # of the content of items that were drawn on
        self.revision = 0
        self.used: set[int] = set()
        self._past: list[State] = []
        self._future: list[State] = []
        self._stored = (0, 0)  # states before and behind it when the snapshot was written, which has none of them

    def apply(self, event: Event, drawing: Drawing | None = None) -> tuple[int, ...]:
        """Do what an event says; the items whose drawings changed. drawing: the event's, if it is at hand.

        Raises:
            CheckpointError: an event of a damaged journal.
        """
        before = self.state
        try:
            self._apply(event, drawing)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise CheckpointError(f"An event of the session cannot be read ({error}): {event!r:.120}") from error
        self.revision += 1
        keys = {*before.drawings, *self.state.drawings}
        old, new = before.drawings, self.state.drawings
        return tuple(sorted(key for key in keys if old.get(key) is not new.get(key)))

    def _apply(self, event: Event, drawing: Drawing | None) -> None:
        kind = event["event"]
        if kind == "mark":
            self.marks.pop(event["item"], None)
            if event["mark"] is not None:
                self.marks[event["item"]] = event["mark"]
        elif kind in ("undo", "redo"):
            source, target = (self._past, self._future) if kind == "undo" else (self._future, self._past)
            if source:
                target.append(self.state)
                self.state = source.pop()
        else:
            self._past.append(self.state)
            self._future.clear()
            self._stored = (self._stored[0], 0)
            self.state = self._changed(kind, event, drawing)
            self.used.update(item.id for item in self.state.classes)

    def leads_beyond_snapshot(self, event: Event) -> bool:
        """Whether an event, undo or redo, goes to a state that events since the snapshot do not lead to."""
        past, future = self._stored
        if event["event"] == "undo":
            return 0 < len(self._past) <= past
        return event["event"] == "redo" and 0 < len(self._future) <= future

    def snapshot_written(self) -> None:
        """Take notice that a snapshot has the state as it is now."""
        self._stored = len(self._past), len(self._future)

    def _changed(self, kind: str, event: Event, drawing: Drawing | None) -> State:
        state = self.state
        if kind == "draw":
            item = int(event["item"])
            drawing = drawing or drawing_from_json(event, self.sizes[item])
            if "digest" in event:
                self.digests[item] = str(event["digest"])
            self.next_id = max(self.next_id, drawing.id + 1)
            before = () if event.get("replace") else state.drawings.get(item, ())
            return state.with_drawings(item, (*before, drawing))
        if kind == "clear":
            return state.with_drawings(int(event["item"]), ())
        if kind == "class":
            new = class_from_json(event["class"])
            classes = {item.id: item for item in state.classes}
            return replace(state, classes=tuple({**classes, new.id: new}.values()))
        if kind == "remove":
            drawings = {}
            for item, old in state.drawings.items():
                rest = without_class(old, event["id"])
                if rest:
                    drawings[item] = old if len(rest) == len(old) and all(map(_same, rest, old)) else rest
            return State(tuple(item for item in state.classes if item.id != event["id"]), drawings)
        raise ValueError(f"unknown event {kind!r}")

    def forget(self) -> None:
        """What was done so far cannot be undone."""
        self._past.clear()
        self._future.clear()
        self._stored = (0, 0)

    def to_json(self) -> dict[str, Any]:
        """The state and the marks; what could be undone is not in it."""
        return {
            "classes": [asdict(item) for item in self.state.classes],
            "drawings": {str(item): [d.to_json() for d in value] for item, value in self.state.drawings.items()},
            "marks": {str(item): mark for item, mark in self.marks.items()},
            "digests": {str(item): digest for item, digest in self.digests.items()},
            "next_id": self.next_id,
            "revision": self.revision,
        }

    def restore(self, data: dict[str, Any]) -> None:
        """What `to_json` gave. Raises CheckpointError: it is something else."""
        try:
            drawings = {
                int(item): tuple(drawing_from_json(record, self.sizes[int(item)]) for record in records)
                for item, records in dict(data["drawings"]).items()
            }
            self.state = State(tuple(map(class_from_json, data["classes"])), drawings)
            self.marks = {int(item): str(mark) for item, mark in dict(data["marks"]).items()}
            self.digests = {int(item): str(digest) for item, digest in dict(data["digests"]).items()}
            self.used = {item.id for item in self.state.classes}
            self.next_id = int(data["next_id"])
            self.revision = int(data["revision"])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise CheckpointError(f"The stored session cannot be read ({type(error).__name__}: {error})") from error


def _same(one: object, other: object) -> bool:
    return one is other


def class_from_json(record: dict[str, Any]) -> LabelClass:
    """A class as JSON has it."""
    if not 0 <= int(record["id"]) < LIMIT:
        raise ValueError(f"class {record['id']!r:.40}")
    return new_class((), record["name"], list(record["colour"]), int(record["id"]))


def free_id(id: Any, classes: Sequence[LabelClass]) -> int:
    """A class id, numpy's too, that no class has. Raises InputError: it is none, or taken."""
    whole = isinstance(id, (int, np.integer)) and not isinstance(id, bool)
    if not whole or not 0 <= id < LIMIT or any(item.id == id for item in classes):
        raise InputError(f"Class id {id!r:.40}: ids are whole numbers, distinct, and 0 to {LIMIT - 1}")
    return int(id)


def new_class(
    classes: Sequence[LabelClass], name: Any, colour: Any, id: int | None = None, used: Collection[int] = ()
) -> LabelClass:
    """A class with a free id, one that is not `used` while there is one; or with another name or colour for `id`.

    Raises:
        InputError: a name that is taken or no text, a colour that is none, more classes than a label map has room for.
    """
    if not isinstance(name, str) or not name or name != name.strip() or not name.isprintable() or len(name) > _LONGEST:
        raise InputError(
            f"A class name is printable text of 1 to {_LONGEST} letters without spaces around it; got {name!r:.80}"
        )
    if any(item.name == name and item.id != id for item in classes):
        raise InputError(f"There is a class {name!r} already; class names are distinct")
    if id is None:
        if len(classes) >= LIMIT:
            raise InputError(
                f"A session has at most {LIMIT} classes, as its label maps have 8 bits and 255 is not annotated; "
                f"{name!r} would be one more"
            )
        ids = {item.id for item in classes}
        free = [i for i in range(LIMIT) if i not in ids]
        id = next((i for i in free if i not in used), free[0])
    if colour is None:
        red, green, blue = palette()[id].tolist()
        return LabelClass(id, name, (red, green, blue))
    if (
        not isinstance(colour, (tuple, list))
        or len(colour) != 3
        or not all(isinstance(part, int) and 0 <= part <= 255 for part in colour)
    ):
        raise InputError(f"A colour is (R, G, B), whole numbers from 0 to 255; got {colour!r:.60}")
    return LabelClass(id, name, (colour[0], colour[1], colour[2]))
