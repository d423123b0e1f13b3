"""The label files in a folder, read again when they change: what X-AnyLabeling saves while its user annotates."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import cast

from dense_ctx_labels.annotation import AnnotationSet, LabelArray
from dense_ctx_labels.base import LabelFormat
from dense_ctx_labels.classes import Classes
from dense_ctx_labels.parsing import json_keys

from dense_ctx.config import Part
from dense_ctx.data.video import IMAGE_SUFFIXES
from dense_ctx.errors import FileError
from dense_ctx.files import file_digest, json_digest, read_json
from dense_ctx.plugins import blamed, registry

from .examples import Example

FORMAT = "labelme"  # X-AnyLabeling's files are such


class LabelFolder:
    """The annotated images of a folder.

    A file whose shapes all have a score was written by a model: it teaches nothing, unless its user marked the image
    as checked.

    Args:
        path: label files at any depth. form: their format. images: folder of the images.

    Raises:
        FileError: it is no folder.
    """

    def __init__(self, path: Path, form: Part, images: Path) -> None:
        for folder in (path, images):
            if not folder.is_dir():
                raise FileError(f"{folder} is not a folder; expected the folder of the annotated images")
        self.path, self.form, self.images = path, form, images
        self._reader = cast(LabelFormat, registry().create("label-format", form.name, **form.args))

    def read(self) -> tuple[Classes, list[Example]]:
        """Classes and examples as the files are now.

        Raises:
            FileError, InputError: as `dense_ctx_labels.base.LabelFormat.open`; a label file of another image's name.
        """
        own = self._own()
        if not own:
            return Classes(("background",)), []
        with blamed("label-format", self.form.name), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of images without shapes, which are left out
            annotations = self._reader.open(self.path, images=self.images)
        examples, unread = [], set(own)
        for index, image in enumerate(annotations.images):
            if (digest := own.get(stem := Path(image).with_suffix("").as_posix())) is not None:
                unread.discard(stem)
                file = self.images / image
                state = file.stat() if file.is_file() else None  # a photo that is edited is learnt again
                stamp = None if state is None else [state.st_size, state.st_mtime_ns]
                options = json_digest([digest, str(self.form), stamp])
                examples.append(Example(image, options, partial(_same, file), partial(_labels, annotations, index)))
        if unread:
            name = min(unread)
            raise FileError(
                f"{self.path / name}.json names an image other than {name}.*: the tool writes a label file of its "
                "image's name, in the same place below the folder of the images; rename one, or correct imagePath"
            )
        return annotations.classes, examples

    def _own(self) -> dict[str, str]:
        """Digests of the label files that people wrote, by the path of their image without suffix."""
        own = {}
        for file in sorted(self.path.rglob("*.json")):
            if not {"shapes", "imagePath"} <= json_keys(file):
                continue
            data = read_json(file)
            shapes = [shape for shape in data["shapes"] if isinstance(shape, dict)]
            predicted = all(shape.get("score") is not None for shape in shapes)
            if shapes and (data.get("checked") is True or not predicted):
                own[file.relative_to(self.path).with_suffix("").as_posix()] = file_digest(file)
        return own


def _labels(annotations: AnnotationSet, index: int, path: Path) -> LabelArray:
    return annotations[index].labels


def _same(path: Path) -> Path:
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise FileError(f"{path} is not an image that is read: {', '.join(sorted(IMAGE_SUFFIXES))}")
    return path
