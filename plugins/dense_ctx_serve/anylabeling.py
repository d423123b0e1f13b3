"""X-AnyLabeling's remote server: which models there are, and predictions of an image."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from dense_ctx_http.refusals import Refusal
from dense_ctx_http.requests import body_of
from dense_ctx_http.worker import EDIT, VIEW
from dense_ctx_labels.classes import is_background
from dense_ctx_labels.raster import fill
from dense_ctx_predict import Predictor
from starlette.requests import Request
from starlette.responses import JSONResponse

from dense_ctx.files import file_digest
from dense_ctx.images import image_size

from .desk import Desk, desk_of, list_of, text_of
from .examples import predict as predicted
from .outlines import polygons
from .pictures import write_picture
from .prompts import Marks, object_mask

OBJECTS, CLASSES, VIDEO = "objects", "classes", "video"
NEW_OBJECT = "AUTOLABEL_OBJECT"  # the tool asks its user for the name
LEAST, LEAST_OF_OBJECT = 64.0, 16.0  # pixels of a predicted region
MAX_MARKS = 10_000
_FINENESS = 0.001  # the tool's own
_ON_OBJECTS = ("button_add_point", "button_remove_point", "button_add_rect", "button_clear", "button_finish_object")
_FINE = ("mask_fineness_slider", "mask_fineness_value_label")


def model_list(desk: Desk) -> dict[str, Any]:
    """What the server offers, by the ids that requests name."""
    objects = [{"name": name, "value": None} for name in (*_ON_OBJECTS, *_FINE)]
    clip = [{"name": name, "value": None} for name in _ON_OBJECTS if name != "button_add_rect"]
    offers: dict[str, Any] = {}
    if desk.head is not None or desk.folder is not None:
        run: list[dict[str, Any]] = [
            {"name": name, "value": None}
            for name in (
                "button_run",
                *_FINE,
                "input_conf",
            )
        ]
        run += [{"name": "edit_conf", "value": 0.0}, {"name": "toggle_preserve_existing_annotations", "value": False}]
        offers[CLASSES] = {"display_name": "dense_ctx: classes", "widgets": run, "batch_processing_mode": "default"}
        if desk.head is not None:
            offers[CLASSES]["classes"] = [c.name for c in desk.head.classes if not is_background(c.name)]
            offers[CLASSES]["filter_classes"] = []
            run.append({"name": "button_classes_filter", "value": None})
    offers[OBJECTS] = {"display_name": "dense_ctx: an object", "widgets": objects, "batch_processing_mode": None}
    offers[VIDEO] = {"display_name": "dense_ctx: an object in a clip", "widgets": clip, "batch_processing_mode": VIDEO}
    return offers


async def models(request: Request) -> JSONResponse:
    """GET /v1/models."""
    return JSONResponse({"success": True, "data": model_list(desk_of(request))})


async def predict(request: Request) -> JSONResponse:
    """POST /v1/predict: `{model, image, params}` to `{data: {shapes, description, replace}}`."""
    desk, body = desk_of(request), await body_of(request)
    model, params = text_of(body, "model"), body.get("params") or {}
    require_model(desk, model, (OBJECTS, CLASSES))
    if not isinstance(params, dict):
        raise Refusal(f"params={params!r:.60}", "an object", "send one")
    if params.get("text_prompt"):
        raise Refusal(f"text_prompt={params['text_prompt']!r:.60}", "points or boxes", "mark the object in the image")
    image = write_picture(body.get("image"), desk.place, "image")
    try:
        if model == OBJECTS:
            marks = marks_of(list_of(params, "marks", MAX_MARKS), *image_size(image))
            fineness = fineness_of(params)
            shapes = await desk.worker.run(EDIT, lambda: objects(desk, image, marks, fineness))
            own = True
        else:
            shapes, own = await desk.worker.run(VIEW, lambda: classes(desk, image, params))
    finally:
        image.unlink(missing_ok=True)
    data = {"shapes": shapes, "description": "", **({"replace": False} if own else {})}
    return JSONResponse({"success": True, "data": data})


def require_model(desk: Desk, model: str, able: tuple[str, ...]) -> None:
    """Refuse a model that is not offered, or not for this."""
    offers = [name for name in model_list(desk) if name in able]
    if model not in offers:
        raise Refusal(f"model={model!r:.60}", " or ".join(offers), "see GET /v1/models", 404)


def fineness_of(params: dict[str, Any]) -> float:
    """The share of an outline's length that a polygon may be from it."""
    return _bounded(params, "epsilon_factor", _FINENESS)


def _bounded(params: dict[str, Any], key: str, default: float) -> float:
    value = params.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise Refusal(f"{key}={value!r:.40}", "a number from 0 to 1", f"set {key}")
    return float(value)


def marks_of(rows: list[Any], height: int, width: int) -> Marks:
    """Marks of the tool: points [x, y] and rectangles [x, y, x, y] in pixels, label 1 on the object and 0 beside it."""
    marks = Marks.of_size((height, width))
    for row in rows:
        kind, data, label = _fields(row)
        if kind == "point" and len(data) == 2:
            marks.add_point(data, positive=label == 1)
        elif kind == "rectangle" and len(data) == 4:
            marks.add_box(data, positive=label == 1)
        else:
            expected = "{type: point or rectangle, data: [x, y] or [x, y, x, y], label: 1 or 0}"
            raise Refusal(f"a mark {row!r:.80}", expected, "send such marks")
    return marks


def _fields(row: Any) -> tuple[Any, list[float], int]:
    """Type, data and label of a mark; no data where it is none."""
    if not isinstance(row, dict) or row.get("label") not in (0, 1) or not isinstance(row.get("data"), list):
        return None, [], 0
    numbers = [float(value) for value in row["data"] if isinstance(value, (int, float)) and math.isfinite(value)]
    return row.get("type"), numbers if len(numbers) == len(row["data"]) else [], int(row["label"])


def objects(desk: Desk, image: Path, marks: Marks, fineness: float) -> list[dict[str, Any]]:
    """The polygons of the object that is marked."""
    mask, _ = object_mask(desk.pictures.of(image), 0, marks)
    rings = polygons(mask.astype(np.uint8), [1], fineness, LEAST_OF_OBJECT)
    return [shape(NEW_OBJECT, ring, None) for _, ring in rings]  # no score: its user confirms it by naming it


def classes(desk: Desk, image: Path, params: dict[str, Any]) -> tuple[list[dict[str, Any]], bool]:
    """The polygons of all classes but the background in an image; whether the image is an example.

    An example is answered without polygons: those that its user drew must stay.
    """
    confidence, fineness = _bounded(params, "conf_threshold", 0.0), fineness_of(params)
    predictor, digests = folder_predictor(desk)
    if image.stem.partition("-")[0] in digests:
        return [], True
    names = {item.id: item.name for item in predictor.classes}
    choice = params.get("filter_classes") or list(names.values())
    if not isinstance(choice, list) or (strange := [name for name in choice if name not in names.values()]):
        text = f"{strange[0]!r:.60}" if isinstance(choice, list) else f"{choice!r:.60}"
        raise Refusal(f"filter_classes={text}", ", ".join(names.values())[:200], "choose of these")
    prediction = predicted(predictor, image, np.dtype(np.int64), desk.max_memory)
    shapes = []
    present = [value for value, name in names.items() if name in choice and not is_background(name)]
    for value, ring in polygons(prediction.labels, present, fineness, LEAST):
        inside, x, y = fill((ring,), (prediction.labels.shape[0], prediction.labels.shape[1]))
        share = prediction.shares[prediction.ids.index(value)].numpy()
        window = share[y : y + inside.shape[0], x : x + inside.shape[1]]
        score = float(window[inside].mean()) if inside.any() else 0.0
        if score >= confidence:
            shapes.append(shape(names[value], ring, round(score, 4)))
    return shapes, False


def folder_predictor(desk: Desk) -> tuple[Predictor, set[str]]:
    """The head, or the predictor of the folder's label files as they are now; digests of its images' files."""
    if desk.head is not None:
        return desk.head, set()
    assert desk.folder is not None  # else the model is not offered
    labels, examples = desk.folder.read()
    desk.folder_examples.follow(labels, examples)
    return desk.folder_examples.predictor(), {file_digest(example.image()) for example in examples}


def shape(label: str, ring: Any, score: float | None) -> dict[str, Any]:
    """A polygon as the tool takes it, with its first point again at the end, as its own models send it."""
    points = np.concatenate([ring, ring[:1]]).round(2).tolist()
    return {"label": label, "shape_type": "polygon", "points": points, "score": score}
