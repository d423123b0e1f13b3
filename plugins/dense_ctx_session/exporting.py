"""A session's labels in the files of annotation tools."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from dense_ctx_labels.base import LabelFormat

from dense_ctx.config import Part
from dense_ctx.errors import InputError
from dense_ctx.plugins import registry
from dense_ctx.visualize import Picture

from .annotation import IGNORE, LabelMap

if TYPE_CHECKING:
    from .session import Session


def export(session: Session, folder: Path, part: Part, items: Sequence[int]) -> Path:
    """Write the labels of items; arguments and errors as `Session.export`."""
    form = cast(LabelFormat, registry().create("label-format", part.name, **part.args))
    classes = session.classes
    place = np.full(256, IGNORE, dtype=np.uint8)
    for position, item in enumerate(classes):
        place[item.id] = position
    path = folder / f"labels{form.suffix}" if form.scope == "data set" else folder
    form.check_target(path)
    if not classes or not items:
        raise InputError(
            f"Nothing to write to {folder}: {'every item is rejected' if classes else 'there is no class'}"
        )
    maps = _maps(session, items, place)
    first = next(maps, None)
    if first is None:
        raise InputError(f"Nothing to write to {folder}: nothing is annotated, and nothing can be predicted")
    folder.mkdir(parents=True, exist_ok=True)

    def all_maps() -> Iterator[tuple[str, LabelMap, Callable[[], Picture]]]:
        yield first
        yield from maps

    return form.write_maps(path, [c.name for c in classes], [c.colour for c in classes], all_maps())


def _maps(
    session: Session, items: Sequence[int], place: LabelMap
) -> Iterator[tuple[str, LabelMap, Callable[[], Picture]]]:
    for index in items:
        labels = place[session.labels(index)]
        if (labels != IGNORE).any():  # else nothing is known of it
            yield session.items[index].name, labels, partial(session.picture, index)
