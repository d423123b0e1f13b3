"""X-AnyLabeling's clips: frames come once, an object is marked in one of them and carried to the others."""

from __future__ import annotations

import functools
import json
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from dense_ctx_http.refusals import Refusal
from dense_ctx_http.requests import body_of
from dense_ctx_http.worker import EDIT, LATER, VIEW
from dense_ctx_labels.raster import Mask
from dense_ctx_session import Session
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse

from dense_ctx.errors import DenseCtxError, InputError, cause_of
from dense_ctx.partial_files import unique

from .anylabeling import LEAST_OF_OBJECT, MAX_MARKS, NEW_OBJECT, VIDEO, fineness_of, require_model, shape
from .desk import Desk, desk_of, list_of, text_of
from .outlines import polygons
from .pictures import write_picture
from .prompts import BACKGROUND, UNKNOWN, Marks, object_mask

OPEN = 2  # clips at once; a third one takes the place of the one used longest ago
MAX_FRAMES = 10_000


@dataclass
class Clip:
    """Frames in a folder, the session over them.

    objects: ids by the class that stands for each. marked: ids by the frame that they were marked in.
    """

    folder: Path
    session: Session
    objects: dict[int, int]
    marked: dict[int, set[int]]
    fineness: float = 0.001

    def close(self) -> None:
        """Close the session and remove the frames."""
        self.session.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class Clips:
    """The clips that are open, by the ids that requests name."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, Clip] = OrderedDict()

    def add(self, clip: Clip) -> str:
        """Take a clip; its id."""
        key = unique()
        self._open[key] = clip
        while len(self._open) > OPEN:
            self._open.popitem(last=False)[1].close()
        return key

    def of(self, key: str) -> Clip:
        """A clip by its id; refused where it is not open."""
        if key not in self._open:
            raise Refusal(f"session_id={key!r:.60}", "one that is open", "begin again: POST /v1/video/init", 404)
        self._open.move_to_end(key)
        return self._open[key]

    def drop(self, key: str) -> None:
        """Close a clip. It is no error that it is closed already."""
        if (clip := self._open.pop(key, None)) is not None:
            clip.close()

    def close(self) -> None:
        """Close all."""
        for key in list(self._open):
            self.drop(key)


async def init(request: Request) -> JSONResponse:
    """POST /v1/video/init: `{model, frames}` to `{data: {session_id}}`."""
    desk, body = desk_of(request), await body_of(request)
    require_model(desk, text_of(body, "model"), (VIDEO,))
    frames = list_of(body, "frames", MAX_FRAMES)
    clip = await desk.worker.run(VIEW, lambda: open_clip(desk, frames))
    key = await desk.worker.run(VIEW, lambda: request.app.state.clips.add(clip))
    return JSONResponse({"success": True, "data": {"session_id": key, "total_frames": len(frames)}})


def open_clip(desk: Desk, frames: list[Any]) -> Clip:
    """Write the frames and open a session over them."""
    folder = Path(tempfile.mkdtemp(prefix="clip-", dir=desk.place))
    try:
        for number, frame in enumerate(frames):
            path = write_picture(frame, desk.place, f"frames[{number}]")
            path.rename(folder / f"{number:05d}{path.suffix}")
        session = Session(desk.model, folder, classes=["background"], frames=True, max_memory=desk.memory // OPEN)
    except InputError as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, Refusal):
            raise
        raise Refusal(f"frames that differ ({error!s:.200})", "frames of one size", "choose a clip") from None
    return Clip(folder, session, {}, {})


async def prompt(request: Request) -> JSONResponse:
    """POST /v1/video/prompt: points on a frame, as shares of its sides, to `{data: {masks}}`, the object's polygons."""
    desk, body = desk_of(request), await body_of(request)
    clip = request.app.state.clips.of(text_of(body, "session_id"))
    if body.get("text_prompt"):
        raise Refusal(f"text_prompt={body['text_prompt']!r:.60}", "points", "mark the object in a frame")
    count = len(clip.session.items)
    frame = whole_of(body, "frame_index", 0, count - 1)
    number = whole_of({"obj_id": 1, **body}, "obj_id", 0, 1 << 31)
    points, labels = list_of(body, "points", MAX_MARKS), list_of(body, "point_labels", MAX_MARKS)
    marks = _marks(points, labels, clip.session.items[frame].height, clip.session.items[frame].width)
    clip.fineness = fineness_of(body.get("params") or {})
    masks = await desk.worker.run(EDIT, lambda: annotate(desk, clip, frame, number, marks))
    return JSONResponse({"success": True, "data": {"frame_index": frame, "masks": masks}})


def _marks(points: list[Any], labels: list[Any], height: int, width: int) -> Marks:
    marks = Marks.of_size((height, width))
    if len(points) != len(labels):
        raise Refusal(f"{len(points)} points and {len(labels)} labels", "a label for each point", "send both")
    for point, label in zip(points, labels, strict=True):
        valid = isinstance(point, list) and len(point) == 2 and all(isinstance(v, (int, float)) for v in point)
        if not valid or label not in (0, 1) or not all(0 <= v <= 1 for v in point):
            raise Refusal(f"point {point!r:.60}, label {label!r:.20}", "[x, y] from 0 to 1, and 1 or 0", "send such")
        marks.add_point((point[0] * width, point[1] * height), positive=label == 1)
    return marks


def annotate(desk: Desk, clip: Clip, frame: int, number: int, marks: Marks) -> list[dict[str, Any]]:
    """Label a frame with the object that is marked, in place of what it had of it; its polygons."""
    picture = clip.session.paths[frame]
    mask, _ = object_mask(desk.pictures.of(picture), 0, marks)
    if number not in clip.objects.values():
        clip.objects[clip.session.add_class(f"object {number}").id] = number
    class_id = next(id for id, known in clip.objects.items() if known == number)
    labels = clip.session.annotation(frame)
    labels[(labels == class_id) | (labels == UNKNOWN)] = BACKGROUND
    labels[mask] = class_id
    clip.marked.setdefault(frame, set()).add(number)
    clip.session.clear(frame)
    clip.session.mask_label(frame, labels)
    return [{**row, "score": None} for row in shapes(clip, labels) if row["group_id"] == number]


def shapes(clip: Clip, labels: Any) -> list[dict[str, Any]]:
    """Polygons of the objects in a frame."""
    return [
        {**shape(NEW_OBJECT, ring, None), "group_id": clip.objects[value]}
        for value, ring in polygons(labels, list(clip.objects), clip.fineness, LEAST_OF_OBJECT)
    ]


def whole_of(body: Any, key: str, low: int, high: int) -> int:
    """A whole number of a body; refused outside of its bounds."""
    value = body.get(key) if isinstance(body, dict) else None
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise Refusal(f"{key}={value!r:.40}", f"a whole number from {low} to {high}", f"set {key}")
    return value


async def propagate(request: Request) -> StreamingResponse:
    """POST /v1/video/propagate/stream: `{session_id, start_frame, end_frame}` to events: started, progress, completed.

    end_frame is the last one. The last event has the polygons of the frames, but for those that were marked: their
    user has them from the prompt already, and would get them twice.
    """
    desk, body = desk_of(request), await body_of(request)
    clip = request.app.state.clips.of(text_of(body, "session_id"))
    count = len(clip.session.items)
    first = whole_of({"start_frame": 0, **body}, "start_frame", 0, count - 1)
    last = whole_of({"end_frame": count - 1, **body}, "end_frame", first, count - 1)
    if not clip.objects:
        raise Refusal("a clip without a marked object", "points on a frame", "POST /v1/video/prompt first", 409)
    for frame, numbers in clip.marked.items():  # what is not marked in a marked frame is background there
        if missing := set(clip.objects.values()) - numbers:
            text = f"frame {frame} with object {min(numbers)} marked and object {min(missing)} not"
            next = "mark it there too, or carry it in a clip of its own"
            raise Refusal(text, "all objects in each frame with marks", next, 409)
    return StreamingResponse(_events(desk, clip, first, last), media_type="text/event-stream")


async def _events(desk: Desk, clip: Clip, first: int, last: int) -> AsyncIterator[str]:
    yield _event("started", total_frames=len(clip.session.items), start_frame_index=first)
    try:
        frames: Iterator[int] = await desk.worker.run(VIEW, lambda: clip.session.propagate(first, last + 1))
        while (frame := await desk.worker.run(LATER, lambda: next(frames, None))) is not None:
            yield _event("progress", current_frame=frame)
        results: dict[str, Any] = {}
        for frame in range(first, last + 1):
            if frame in clip.marked:
                continue
            rows = await desk.worker.run(LATER, functools.partial(carried, clip, frame))
            results[str(frame)] = {"masks": rows}
    except DenseCtxError as error:
        yield _event("error", message=cause_of(error))
        return
    yield _event("completed", results=results)


def carried(clip: Clip, frame: int) -> list[dict[str, Any]]:
    """The polygons of a frame, with the certainty of what was carried there as their score."""
    labels = clip.session.labels(frame)
    certainty = 1 - clip.session.uncertainty(frame)
    rows = []
    for row in shapes(clip, labels):
        mask: Mask = labels == next(id for id, number in clip.objects.items() if number == row["group_id"])
        rows.append({**row, "score": round(float(np.mean(certainty[mask])), 4)})
    return rows


def _event(kind: str, **fields: Any) -> str:
    return f"data: {json.dumps({'type': kind, **fields})}\n\n"


async def cleanup(request: Request) -> JSONResponse:
    """POST /v1/video/cleanup/{session}."""
    desk, key = desk_of(request), request.path_params["session"]
    await desk.worker.run(EDIT, lambda: request.app.state.clips.drop(key))
    return JSONResponse({"success": True, "data": {"session_id": key}})
