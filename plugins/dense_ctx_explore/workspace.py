"""Workspace: one session that several pages share, read by one or two models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dense_ctx_http.refusals import Refusal

from dense_ctx.errors import FileError
from dense_ctx.files import json_digest

from .edits import checked, checked_item
from .receipts import Receipts

if TYPE_CHECKING:
    from dense_ctx_session import Session

SESSION, RECEIPTS, EXPORTS = "session", "receipts.jsonl", "exports"


class Workspace:
    """What the pages of one server share.

    Args:
        session: saved to a folder already, which it follows. beside: sessions of other models that share its annotation
            (`Session.beside`). models: names of all of them, for display.
        folder: for receipts and exports; that of the session lies in it.

    Attributes: session, sessions (all), folder; identity: the same for the same images from the same folder.
    """

    def __init__(self, session: Session, beside: Sequence[Session], models: Sequence[str], folder: Path) -> None:
        self.session, self.sessions = session, (session, *beside)
        self.models, self.folder = tuple(models), folder
        items = [(item.name, item.width, item.height) for item in session.items]
        self.identity = json_digest([items, str(folder.resolve())])[:16]
        self._receipts = Receipts(folder / RECEIPTS, session.revision)
        self._unsaved: set[str] = set()  # edits in memory that the disk had no room for
        self._last_stroke: str | None = None  # the id, while nothing else has happened since

    @property
    def revision(self) -> int:
        """How many changes there were; another one means other labels."""
        return int(self.session.revision)

    def apply(self, edit: Any) -> dict[str, Any]:
        """Make an edit, once: one that is sent again is answered and not made again.

        Returns:
            {id, revision, result}; result: the id of a class that was added, the items that undo or redo changed.

        Raises:
            Refusal: as `dense_ctx_explore.edits.checked`. FileError: the disk is full; sent again, it is tried again.
        """
        id = edit.get("id") if isinstance(edit, dict) else None
        if isinstance(id, str) and id in self._receipts:
            if self._unsaved:
                self.session.save(self.folder / SESSION)
                self._unsaved.clear()
            return {"id": id, "revision": self.revision, "result": self._earlier(edit)}
        edit = checked(edit, self.session.items, self.session.classes)
        extends = edit.get("extends") is not None
        if extends and edit["extends"] != self._last_stroke:
            raise Refusal(f"extends={edit['extends']}", "the last edit, a stroke", "send the stroke by itself", 409)
        self._receipts.announce(edit["id"], self.revision + (2 if extends else 1))
        if extends:  # the same stroke, longer: while it is drawn, its beginning is sent already
            self.session.undo()
            self._last_stroke = None
        try:
            result = _EDITS[edit["edit"]](self.session, edit)
        except FileError:
            self._unsaved.add(edit["id"])  # made in memory, and not on the disk
            self._receipts.made(edit["id"])
            raise
        except BaseException:
            if extends:
                self.session.redo()  # its beginning stays
            raise
        self._receipts.made(edit["id"])
        self._last_stroke = edit["id"] if edit["edit"] == "stroke" else None
        return {"id": edit["id"], "revision": self.revision, "result": result}

    def _earlier(self, edit: dict[str, Any]) -> Any:
        """The result of an edit that was made before."""
        ids = (item.id for item in self.session.classes if item.name == edit.get("name"))
        return next(ids, None) if edit.get("edit") == "add-class" else None

    def interrupt(self) -> None:
        """Take notice of a change that is no edit: what is drawn of a stroke before it is not replaced after it."""
        self._last_stroke = None

    def state(self) -> dict[str, Any]:
        """All that a page needs to draw itself, but for pictures."""
        session = self.session
        return {
            "identity": self.identity,
            "revision": self.revision,
            "models": list(self.models),
            "clip": session.is_clip,
            "classes": [{"id": c.id, "name": c.name, "colour": "#" + bytes(c.colour).hex()} for c in session.classes],
            "items": [
                {"name": i.name, "width": i.width, "height": i.height, "status": session.status(n),
                 "strokes": len(session.strokes(n))} for n, i in enumerate(session.items)
            ],
        }  # fmt: skip

    def reader(self, model: int) -> Session:
        """The session of a model, by its place; refused with 404."""
        if not 0 <= model < len(self.sessions):
            places = f"0 to {len(self.sessions) - 1}, places in the list of models"
            raise Refusal(f"model {model}", places, "choose one", 404)
        return self.sessions[model]

    def item(self, number: int) -> Any:
        """An item, by its place; refused with 404."""
        return self.session.items[checked_item(number, self.session.items)]

    def close(self) -> None:
        """Close the sessions beside, and the receipts."""
        for session in self.sessions[1:]:
            session.close()
        self._receipts.close()


def _add_class(session: Session, edit: dict[str, Any]) -> int:
    return session.add_class(edit["name"].strip(), _colour(edit)).id


def _change_class(session: Session, edit: dict[str, Any]) -> None:
    session.rename_class(edit["class"], edit["name"].strip(), _colour(edit))


def _colour(edit: dict[str, Any]) -> tuple[int, ...] | None:
    colour = edit.get("colour")
    return None if colour is None else tuple(bytes.fromhex(colour[1:]))


_EDITS: dict[str, Callable[[Any, dict[str, Any]], Any]] = {
    "stroke": lambda session, edit: (
        session.stroke(edit["item"], edit["class"], edit["points"], edit["radius"]) and None
    ),
    "clear": lambda session, edit: session.clear(edit["item"]),
    "undo": lambda session, edit: list(session.undo()),
    "redo": lambda session, edit: list(session.redo()),
    "mark": lambda session, edit: session.mark(edit["item"], edit["status"]),
    "add-class": _add_class,
    "change-class": _change_class,
    "remove-class": lambda session, edit: session.remove_class(edit["class"]),
}
