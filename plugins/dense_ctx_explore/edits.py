"""Edits: what a page may change, checked field by field before anything happens."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from dense_ctx_http.refusals import Refusal

MAX_POINTS = 10_000
MAX_RADIUS = 2_000.0
MAX_CLASSES = 254  # a label map has 8 bits, 255 for pixels that are not labelled
STATUSES = ("accepted", "rejected", None)
_ID = re.compile(r"[A-Za-z0-9-]{8,64}")
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")

# the fields of each edit beside "id" and "edit"; one in brackets may be left out
FIELDS: dict[str, tuple[str, ...]] = {
    "stroke": ("item", "class", "points", "radius", "[extends]"),
    "clear": ("item",),
    "undo": (),
    "redo": (),
    "mark": ("item", "status"),
    "add-class": ("name", "[colour]"),
    "change-class": ("class", "name", "[colour]"),
    "remove-class": ("class",),
}


def checked(edit: Any, items: Sequence[Any], classes: Sequence[Any]) -> dict[str, Any]:
    """An edit whose fields are right for these items and classes.

    Raises:
        Refusal: a field is missing, unknown, of another type, or out of its range; 404 for an item or class.
    """
    if not isinstance(edit, dict):
        raise Refusal(f"an edit of type {type(edit).__name__}", "a JSON object", "send {id, edit, ...}")
    kind = edit.get("edit")
    if not isinstance(kind, str) or kind not in FIELDS:
        raise Refusal(f"edit={kind!r:.60}", "one of " + ", ".join(FIELDS), "name the edit")
    if not isinstance(edit.get("id"), str) or not _ID.fullmatch(edit["id"]):
        raise Refusal(
            f"id={edit.get('id')!r:.80}", "8 to 64 letters, digits and dashes, other for each edit", "send such an id"
        )
    fields = {"id", "edit", *(name.strip("[]") for name in FIELDS[kind])}
    if strange := sorted(map(str, edit.keys() - fields)):
        raise Refusal(f"the field {strange[0]!r:.60}", f"of {kind}: {', '.join(sorted(fields))}", "leave it out")
    if missing := [name for name in FIELDS[kind] if not name.startswith("[") and name not in edit]:
        raise Refusal(f"{kind} without {missing[0]}", f"the fields {', '.join(FIELDS[kind])}", f"add {missing[0]}")
    for name, check in _CHECKS.items():
        if name in edit:
            check(edit, items, classes)
    return dict(edit)


def checked_item(value: Any, items: Sequence[Any]) -> int:
    """The number of an item; refused with 404."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < len(items):
        raise Refusal(f"item {value!r:.40}", f"0 to {len(items) - 1}, places in the list of items", "choose one", 404)
    return value


def _item(edit: dict[str, Any], items: Sequence[Any], classes: Sequence[Any]) -> None:
    checked_item(edit["item"], items)


def _class(edit: dict[str, Any], items: Sequence[Any], classes: Sequence[Any]) -> None:
    value = edit["class"]
    if value is None and edit["edit"] == "stroke":
        return
    ids = [item.id for item in classes]
    if value not in ids or isinstance(value, bool):
        listing = ", ".join(map(str, ids[:20])) or "none yet"
        eraser = " or null to erase" if edit["edit"] == "stroke" else ""
        raise Refusal(f"class {value!r:.40}", f"the id of a class ({listing}){eraser}", "choose one, or add it", 404)


def _points(edit: dict[str, Any], items: Sequence[Any], classes: Sequence[Any]) -> None:
    points, item = edit["points"], items[checked_item(edit.get("item"), items)]
    if not isinstance(points, list) or not 1 <= len(points) <= MAX_POINTS:
        size = len(points) if isinstance(points, list) else type(points).__name__
        raise Refusal(f"points: {size}", f"a list of 1 to {MAX_POINTS} points [x, y]", "divide the stroke")
    for point in points:
        if not isinstance(point, list) or len(point) != 2 or not all(map(_finite, point)):
            raise Refusal(f"the point {point!r:.60}", "[x, y], two finite numbers", "correct it")
        if not (0 <= point[0] <= item.width and 0 <= point[1] <= item.height):
            raise Refusal(
                f"the point {point!r:.60} of a stroke on {item.name}",
                f"x from 0 to {item.width} and y from 0 to {item.height}, pixels of the image",
                "cut the stroke at the border",
            )


def _radius(edit: dict[str, Any], items: Sequence[Any], classes: Sequence[Any]) -> None:
    item = items[checked_item(edit.get("item"), items)]
    most = min(MAX_RADIUS, max(item.width, item.height))
    if not _finite(edit["radius"]) or not 0.5 <= edit["radius"] <= most:
        raise Refusal(f"radius={edit['radius']!r:.40}", f"0.5 to {most:.0f} pixels", "change it")


def _status(edit: dict[str, Any], items: Sequence[Any], classes: Sequence[Any]) -> None:
    if edit["status"] not in STATUSES:
        raise Refusal(f"status={edit['status']!r:.40}", '"accepted", "rejected" or null', "send one of them")


def _name(edit: dict[str, Any], items: Sequence[Any], classes: Sequence[Any]) -> None:
    name = edit["name"]
    if not isinstance(name, str) or not name.strip() or len(name) > 80 or not name.isprintable():
        raise Refusal(f"name={name!r:.100}", "1 to 80 printable letters", "change the name")
    if any(item.name == name and item.id != edit.get("class") for item in classes):
        raise Refusal(f"a second class {name!r:.80}", "names that differ", "choose another name", 409)
    if edit["edit"] == "add-class" and len(classes) >= MAX_CLASSES:
        raise Refusal(f"class number {len(classes) + 1}", f"at most {MAX_CLASSES} classes", "remove one")


def _colour(edit: dict[str, Any], items: Sequence[Any], classes: Sequence[Any]) -> None:
    if edit["colour"] is not None and not (isinstance(edit["colour"], str) and _COLOUR.fullmatch(edit["colour"])):
        raise Refusal(f"colour={edit['colour']!r:.40}", '"#rrggbb"', "send such a text, or leave it out")


def _extends(edit: dict[str, Any], items: Sequence[Any], classes: Sequence[Any]) -> None:
    if not isinstance(edit["extends"], str) or not _ID.fullmatch(edit["extends"]):
        raise Refusal(f"extends={edit['extends']!r:.60}", "the id of an earlier stroke", "leave it out")


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < math.inf


_CHECKS: dict[str, Callable[[dict[str, Any], Sequence[Any], Sequence[Any]], None]] = {
    "item": _item, "class": _class, "points": _points, "radius": _radius, "status": _status, "name": _name,
    "colour": _colour, "extends": _extends,
}  # fmt: skip
