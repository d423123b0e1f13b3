"""Label Studio's protocol of a machine learning backend: health, setup, predict, webhook."""

from __future__ import annotations

import asyncio
import functools
import re
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from dense_ctx_http.refusals import Refusal
from dense_ctx_http.requests import body_of
from dense_ctx_http.worker import EDIT, LATER, VIEW
from dense_ctx_labels.annotation import Annotation
from dense_ctx_labels.label_studio import LabelStudio
from dense_ctx_labels.label_studio_regions import labels_of, shapes_of, size_of
from dense_ctx_labels.raster import draw
from dense_ctx_labels.shapes import Shape, Unlabelled
from starlette.requests import Request
from starlette.responses import JSONResponse

from dense_ctx.errors import DenseCtxError, FileError, cause_of
from dense_ctx.images import image_size

from .desk import Desk, desk_of, list_of
from .labelling import read_labelling
from .project import Project
from .prompts import Marks, object_mask
from .studio_api import StudioApi

MAX_TASKS = 100_000
PROJECTS = 16
SECONDS = 80.0  # of one request: Label Studio waits 100
SETUP_SECONDS = 2.0  # of /setup: it waits 3
_NUMBER = re.compile(r"(\d{1,12})(\.\d+)?")


class Studio:
    """The projects of one Label Studio.

    Args:
        images, unlabelled: as for `Project`. seconds: after which a request for many tasks is answered with what there
            is; the other tasks have no prediction then.
    """

    def __init__(
        self, desk: Desk, api: StudioApi, images: Path | None, unlabelled: Unlabelled | None, seconds: float = SECONDS
    ) -> None:
        self._desk, self._api, self._images, self.unlabelled = desk, api, images, unlabelled
        self.seconds = seconds
        self._projects: dict[int, Project] = {}

    def project(self, text: Any) -> Project:
        """A project by what Label Studio sends: "ID.TIME" or the id.

        Raises:
            Refusal: it is neither.
        """
        match = _NUMBER.fullmatch(str(text)) if isinstance(text, (str, int)) else None
        if match is None:
            raise Refusal(f"project={text!r:.60}", "the id of a project", "send it")
        number = int(match[1])
        if number not in self._projects:
            while len(self._projects) >= PROJECTS:
                self._projects.pop(next(iter(self._projects)))
            self._projects[number] = Project(self._desk, self._api, number, self._images, self.unlabelled)
        return self._projects[number]


def studio_of(request: Request) -> Studio:
    """The Label Studio of the server; refused without --label-studio."""
    studio: Studio | None = request.app.state.studio
    if studio is None:
        raise Refusal(request.url.path, "a server with --label-studio URL", "start it so", 404)
    return studio


async def health(request: Request) -> JSONResponse:
    """GET /health."""
    return JSONResponse({"status": "UP", "model_class": "dense_ctx"})


async def setup(request: Request) -> JSONResponse:
    """POST /setup: a project is connected, or asks for the model's version, which follows its annotations.

    The address and the token that come with it are not used: Label Studio is read where the command line says.
    """
    studio, body = studio_of(request), await body_of(request)
    project = studio.project(body.get("project") if isinstance(body, dict) else None)
    read_labelling(body.get("schema"), studio.unlabelled)
    reading = asyncio.ensure_future(asyncio.to_thread(project.read))
    done, _ = await asyncio.wait([reading], timeout=SETUP_SECONDS)
    if done:
        reading.result()
    else:  # a large project: what is known by then; predictions have their own version
        reading.add_done_callback(lambda task: task.cancelled() or task.exception())
    return JSONResponse({"model_version": project.version or "dense_ctx"})


async def predict(request: Request) -> JSONResponse:
    """POST /predict: tasks to one prediction each; with a context, the object that is marked in the one task."""
    studio, desk, body = studio_of(request), desk_of(request), await body_of(request)
    tasks = list_of(body, "tasks", MAX_TASKS)
    if not all(isinstance(task, dict) for task in tasks):
        raise Refusal("tasks that are no objects", "tasks", "send them")
    project = studio.project(body.get("project"))
    params = body.get("params")
    context = params.get("context") if isinstance(params, dict) else None
    if isinstance(context, dict) and context.get("result"):
        await asyncio.to_thread(project.read)
        answer = await desk.worker.run(EDIT, lambda: interactive(desk, project, tasks[0], context["result"]))
        return JSONResponse({"results": [answer], "model_version": project.version})
    await asyncio.to_thread(project.read)
    end, results = time.monotonic() + studio.seconds, []
    for task in tasks:
        if time.monotonic() > end:
            break
        results.append(await desk.worker.run(VIEW, functools.partial(project.predict, task)))
    if len(results) < len(tasks):
        left = f"{len(tasks) - len(results)} of {len(tasks)} tasks have no prediction yet: ask for predictions again"
        print(f"project {project.number}: {left}", file=sys.stderr, flush=True)
    rest: list[Any] = [[]] * (len(tasks) - len(results))  # no prediction, where None or less would void all
    return JSONResponse({"results": [*results, *rest], "model_version": project.version})


def interactive(desk: Desk, project: Project, task: dict[str, Any], rows: Any) -> dict[str, Any]:
    """The objects that are marked in a task's image, one brush region for each label that the marks have.

    A mark counts against an object if it has another label, or is a negative one.
    """
    labelling, _ = project.read()
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise Refusal(f"context.result={rows!r:.60}", "regions", "send them")
    if strange := [row.get("to_name") for row in rows if row.get("to_name", labelling.target) != labelling.target]:
        raise Refusal(f"marks on the image {strange[0]!r:.60}", f"on {labelling.target!r:.60}", "mark that one")
    image = project.image(task, labelling)
    size = image_size(image)
    try:
        if (size_of(rows) or size) != size:
            raise Refusal("marks on another image", f"{size[0]} x {size[1]} (H x W)", "send its regions")
        named, shapes = labels_of(rows), shapes_of(rows, size)
    except FileError as error:
        raise Refusal(f"context.result: {error}", "regions with labels", "send them") from None
    pairs = [(shape, rows[index].get("is_positive", True)) for index, shape in zip(named, shapes, strict=True)]
    names = list(dict.fromkeys(shape.label for shape, positive in pairs if positive))
    if strange := [name for name in names if name not in labelling.names]:
        raise Refusal(f"the label {strange[0]!r:.60}", f"{', '.join(labelling.names)[:200]}", "mark with one of these")
    if not names:
        raise Refusal("marks without a positive one", "a point, a stroke or a box on the object", "add one")
    regions, scores = [], []
    for name in names:
        marks = Marks.of_size(size)
        for shape, positive in pairs:
            _mark(marks, shape, bool(positive) and shape.label == name, size)
        mask, certainty = object_mask(desk.pictures.of(image), 0, marks)
        classes = labelling.classes
        labels = np.where(mask, classes.names.index(name), classes.ignore)
        form = LabelStudio(unlabelled="ignore")
        prefix = f"{name}-{int(time.time() * 1000)}"
        regions += form.result(Annotation(labels, classes, "image"), prefix, labelling.control, labelling.target)
        scores.append(certainty)
    return {"result": regions, "score": round(min(scores), 4), "model_version": project.version}


def _mark(marks: Marks, shape: Shape, positive: bool, size: tuple[int, int]) -> None:
    if shape.mask is not None:
        marks.add_mask(shape.mask, positive)
        return
    for ring in shape.rings:
        if shape.kind == "stroke" and len(ring) == 1:
            marks.add_point(ring[0].tolist(), positive)
        elif shape.kind == "stroke":
            marks.add_mask(draw(ring, 3.0, size), positive)
        else:
            marks.add_box([*ring.min(0).tolist(), *ring.max(0).tolist()], positive)


async def webhook(request: Request) -> JSONResponse:
    """POST /webhook: an annotation was made, changed or removed; the project is learnt again in the background."""
    studio, desk, body = studio_of(request), desk_of(request), await body_of(request)
    action = body.get("action") if isinstance(body, dict) else None
    if not isinstance(action, str):
        raise Refusal(f"action={action!r:.60}", "what happened, such as ANNOTATION_CREATED", "send it")
    sent = body.get("project")
    if action.startswith(("ANNOTATION", "ANNOTATIONS", "START_TRAINING")) or action == "PROJECT_UPDATED":
        project = studio.project(sent.get("id") if isinstance(sent, dict) else sent)
        project.changed()
        desk.worker.submit(LATER, lambda: _learn(project))
    return JSONResponse({"status": "ok"})


def _learn(project: Project) -> None:
    try:
        project.read()
        project.predictor()
    except DenseCtxError as error:  # whoever asks for a prediction meets it too
        print(f"project {project.number}: {cause_of(error)}", file=sys.stderr, flush=True)
