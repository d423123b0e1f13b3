"""What runs beside the window: opening a session, answers, propagation, export."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from napari.layers import Image

from .annotator import Annotator
from .graphics import load_triton
from .layers import Array, LayerSource


def opened(model: str, source: LayerSource, image: Image) -> tuple[str, Annotator, Image]:
    """Open a session; the image layer that it was asked for goes with it."""
    load_triton()
    return "session", Annotator(model, source), image


def answer(
    annotator: Annotator, strokes: Any, facts: Callable[[int], Any], frame: int, known: int | None, uncertain: bool
) -> tuple[Annotator, int, int, Array | None, Array | None, float]:
    """The labels of a frame, None if those shown are up to date; its uncertainty, if it is wanted."""
    began = time.monotonic()
    annotator.follow(strokes, facts)
    revision = annotator.session.revision
    if revision == known or not annotator.session.classes:
        return annotator, frame, revision, None, None, 0.0
    labels = annotator.labels(frame)
    uncertainty = annotator.uncertainty(frame) if uncertain else None
    return annotator, frame, revision, labels, uncertainty, time.monotonic() - began


def propagated(annotator: Annotator) -> Iterator[tuple[str, Annotator, int, Array]]:
    """Frames and their labels, as they are there."""
    for frame, labels in annotator.propagate():
        yield "frame", annotator, frame, labels


def exported(annotator: Annotator, folder: Path, form: str) -> str:
    """Write the labels; what to say of it."""
    return f"Labels written to {annotator.export(folder, form)}"


def class_facts(strokes: Any, names: dict[int, str], label: int) -> tuple[str, tuple[int, int, int]]:
    """Name and colour of a class that is painted for the first time."""
    return names.get(label, f"class {label}"), colour_of(strokes, label)


def colour_of(strokes: Any, label: int) -> tuple[int, int, int]:
    """(R, G, B) of a label as the layer shows it."""
    if strokes is None:
        return 128, 128, 128
    red, green, blue = (round(255 * float(part)) for part in strokes.colormap.map(label)[:3])
    return red, green, blue
