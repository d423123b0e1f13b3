"""A Label Studio project: its annotated tasks are the examples, its other tasks are predicted from them."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from dense_ctx_http.refusals import Refusal
from dense_ctx_labels.annotation import Annotation, LabelArray, check_size
from dense_ctx_labels.label_studio_regions import image_of, shapes_of, size_of
from dense_ctx_labels.references import ImageFiles
from dense_ctx_labels.shapes import Unlabelled, error_context
from dense_ctx_predict import Predictor

from dense_ctx.errors import FileError
from dense_ctx.files import json_digest
from dense_ctx.images import image_size

from .desk import Desk
from .examples import Example, predict, version_of
from .labelling import Labelling, read_labelling
from .studio_api import StudioApi

FRESH = 3.0  # seconds: how long a list of annotations is not asked for again, unless a webhook says that it changed
KEPT = 500  # predictions


class Project:
    """One project of Label Studio, as it is there.

    Args:
        number: its id. images: folder of the images; None: they are read from Label Studio. unlabelled: as for
            `read_labelling`.

    Attributes: version: of the annotations and the model; "" before they were read.
    """

    def __init__(
        self, desk: Desk, api: StudioApi, number: int, images: Path | None, unlabelled: Unlabelled | None
    ) -> None:
        self.number, self.version = number, ""
        self._desk, self._api, self._unlabelled = desk, api, unlabelled
        self._images = None if images is None else ImageFiles(images)
        self._addresses: dict[str, str] = {}  # of the files in the folder that were read
        self._learnt = desk.examples()
        self._state: tuple[Labelling, list[Example]] | None = None
        self._read_at = -1e9
        self._lock = threading.Lock()  # of what was read; the model is run by one thread alone
        self._kept: OrderedDict[str, dict[str, Any]] = OrderedDict()

    def changed(self) -> None:
        """Its annotations changed: they are read again before the next prediction."""
        self._read_at = -1e9

    def read(self) -> tuple[Labelling, list[Example]]:
        """Configuration and annotated tasks, as Label Studio has them now. From any thread.

        Raises:
            Refusal: no such project, no access, no brush labels, a region that no label map can take.
        """
        with self._lock:
            if self._state is None or time.monotonic() - self._read_at > FRESH:
                begun = time.monotonic()
                labelling = read_labelling(self._api.project(self.number).get("label_config"), self._unlabelled)
                examples = [] if self._desk.head is not None else self._examples(labelling)
                self._state, self._read_at = (labelling, examples), begun
                self.version = self._version(version_of(labelling.classes, examples))
            return self._state

    def _version(self, learnt: str) -> str:
        """Of what predicts and of what it learnt: Label Studio keeps a prediction while its version stays."""
        return f"dense_ctx-{json_digest([self._desk.identity, learnt])[:12]}"

    def _examples(self, labelling: Labelling) -> list[Example]:
        examples = []
        for task in self._api.annotated(self.number):
            name = f"task {task.get('id')}"
            try:
                regions = labelling.form.regions(task)
            except FileError as error:
                raise Refusal(f"{name}: {error}", "an annotation with regions", "annotate it again") from None
            if regions is None or (not regions and labelling.unlabelled == "ignore"):
                continue
            own = [region for region in regions if region.get("to_name", labelling.target) == labelling.target]
            if regions and not own:  # of the task's other images alone
                continue
            regions = own
            data = task.get("data")
            address = data.get(labelling.key) if isinstance(data, dict) else None
            digest = json_digest([regions, labelling.unlabelled, address])
            image = partial(self.image, task, labelling)
            examples.append(Example(name, digest, image, partial(_labels, name, regions, labelling)))
        return examples

    def image(self, task: dict[str, Any], labelling: Labelling) -> Path:
        """The file of a task's image: in the user's folder, or read from Label Studio once.

        Raises:
            Refusal: the task names none, it cannot be had, or it is no picture; a file name of the folder that two
                addresses end in. FileError: no such file in the folder.
        """
        data = task.get("data")
        address = data.get(labelling.key) if isinstance(data, dict) else None
        if not isinstance(address, str) or not address:
            text = f"task {task.get('id')} with {labelling.key}={address!r:.60}"
            raise Refusal(text, "the address of an image", "see the task's data")
        if self._images is not None:
            name = image_of(task, self._images, labelling.key)
            self._require_own_file(name, address)
            return self._images.path(name)
        what = f"The image {address[:120]} of task {task.get('id')}"
        return self._desk.stored.get(address, lambda: self._api.image(address), what)

    def _require_own_file(self, name: str, address: str) -> None:
        """Refuse a file for a second address, one/1.png and two/1.png; uploads differ by what is put before a name."""
        place = urlsplit(address)._replace(query="", fragment="").geturl()
        origin = self._addresses.setdefault(name, place)
        if origin != place and "/upload/" not in place:
            text = f"images at {origin[:120]} and {place[:120]}, and one file {name[:120]} for both"
            next = "give the images names of their own, or let Label Studio serve them, without --images"
            raise Refusal(text, "a file for each image", next)

    def predictor(self) -> tuple[Predictor, Labelling, str]:
        """Learn what was read last; predictor, configuration, version. By the worker.

        Raises:
            Refusal: nothing is annotated, or a single class; a head whose classes are not labels of the project.
        """
        labelling, examples = self._state or self.read()
        head = self._desk.head
        if head is None:
            self._learnt.follow(labelling.classes, examples)
            return self._learnt.predictor(), labelling, self._version(self._learnt.version)
        classes = labelling.classes
        names = [item.name for item in head.classes if item.name in classes.names]
        if not names or (strange := [item.name for item in head.classes if item.name not in classes.names]):
            example = strange[0] if names else head.classes[0].name
            raise Refusal(
                f"a model of the class {example!r}", f"brush labels: {', '.join(classes.names)[:200]}", "add it"
            )
        return head, labelling, self.version

    def predict(self, task: dict[str, Any]) -> dict[str, Any]:
        """The prediction for a task, as Label Studio stores it: result, score, model_version. By the worker."""
        predictor, labelling, version = self.predictor()
        key = json_digest([version, task.get("data"), labelling.control, labelling.target, labelling.unlabelled])
        if key not in self._kept:
            path, classes = self.image(task, labelling), labelling.classes
            place = {name: index for index, name in enumerate(classes.names)}
            prediction = predict(predictor, path, classes.dtype, self._desk.max_memory)
            labels = prediction.labels
            if self._desk.head is not None:
                places = np.zeros(max(item.id for item in predictor.classes) + 1, dtype=classes.dtype)
                for item in predictor.classes:
                    places[item.id] = place[item.name]
                labels = places[labels]
            regions: list[dict[str, Any]] = []
            if labelling.unlabelled == "ignore" or not bool((labels == classes.background).all()):
                annotation = Annotation(labels, classes, "image")
                regions = labelling.form.result(annotation, key[:8], labelling.control, labelling.target)
            self._kept[key] = {"result": regions, "score": round(prediction.certainty, 4), "model_version": version}
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return self._kept[key]


def _labels(name: str, regions: list[dict[str, Any]], labelling: Labelling, image: Path) -> LabelArray:
    """The label map of a task's regions, of its image's size."""
    own = image_size(image)
    try:
        with error_context(name, ""):
            size = size_of(regions) or own
            check_size(size, own, "its image")
            return labelling.form.painting.paint(shapes_of(regions, size), size, labelling.classes)
    except FileError as error:
        raise Refusal(str(error), "regions that can be read", "annotate it again") from None
