"""LabelFormat: label maps in the files of one tool."""

from __future__ import annotations

import os
from abc import ABC
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from dense_ctx.errors import FileError, InputError
from dense_ctx.gateway import gateway
from dense_ctx.interfaces import Size

from .annotation import Annotation, AnnotationSet, LabelArray, Picture, check_size
from .classes import Classes, Colour, listed
from .references import ImageFiles


@dataclass(frozen=True)
class Source:
    """What a format reads: an existing file or folder, and what its user knows beside."""

    path: Path
    images: ImageFiles | None = None
    classes: tuple[str, ...] | None = None
    size: Size | None = None

    def checked(self, labels: LabelArray, classes: Classes, image: str) -> Annotation:
        """An annotation whose size is that of the image, where there is one, and `size`, where that is given.

        Raises:
            InputError: another size. FileError: the folder of the images has no such image.
        """
        expected = self.size or (self.images.size(image) if self.images else None)
        check_size((labels.shape[0], labels.shape[1]), expected, image)
        picture = self.images.opener(image) if self.images else None
        return Annotation(labels, classes, image, picture)


class LabelFormat(ABC):
    """Reads label maps from the files of one tool, and writes them. Options of a format are its constructor's.

    Attributes set by the subclass:
        title: what it is, for lists. suffix: of its files.
        scope: "image" for one file an image, "data set" for one file of all images.
        reads, writes: which of the two it can do.
    """

    title: ClassVar[str]
    suffix: ClassVar[str]
    scope: ClassVar[Literal["image", "data set"]] = "image"
    reads: ClassVar[bool] = True
    writes: ClassVar[bool] = True

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether a file or folder looks like one of this format's; of those that do `auto` takes the only one."""
        return False

    def load(self, source: Source) -> AnnotationSet:
        """Read what `open` was asked for; `source.path` exists. Errors as `open`."""
        raise InputError(f"{type(self).__name__} is written, not read")

    def save(self, path: Path, classes: Classes, annotations: Iterator[Annotation]) -> None:
        """Write what `write` was given: checked, at least one, of the same classes, of different images."""
        raise InputError(f"{type(self).__name__} is read, not written")

    @gateway
    def open(
        self,
        path: str | os.PathLike[str],
        *,
        images: str | os.PathLike[str] | None = None,
        classes: Sequence[str] | None = None,
        size: Size | None = None,
    ) -> AnnotationSet:
        """The annotations in a file, or in a folder of files.

        Args:
            path: a file of the format; for a format of one file an image, a folder with its subfolders too.
            images: the folder of the images. Sizes are checked against them, and references may not lead out of it.
            classes: names in the order that ids are wanted in; default: as the file has them.
            size: (H, W) of every image, where they are not at hand.

        Raises:
            FileError: missing, damaged or of another format. InputError: a class that is not in `classes`, another
                size than the image's, a shape outside of it, an image outside of its folder.
        """
        path = Path(path)
        if not path.exists():
            raise FileError(f"No labels at {str(path)[:300]}")
        if isinstance(classes, str):
            raise InputError(f"classes are several names, each of them text; got one text {classes[:80]!r}")
        names = None if classes is None else Classes(tuple(classes)).names
        return self.load(Source(path, None if images is None else ImageFiles(Path(images)), names, size))

    @gateway
    def read(
        self,
        path: str | os.PathLike[str],
        size: Size | None = None,
        *,
        images: str | os.PathLike[str] | None = None,
        classes: Sequence[str] | None = None,
    ) -> Annotation:
        """The annotation of a file that has one image; arguments and errors as `open`."""
        annotations = self.open(path, images=images, classes=classes, size=size)
        if len(annotations) != 1:
            names = listed(annotations.images)
            raise InputError(f"{path} has the labels of {len(annotations)} images ({names}); expected one: open it")
        return annotations[0]

    @gateway
    def write(self, path: str | os.PathLike[str], annotations: Iterable[Annotation]) -> Path:
        """Write annotations, one after the other; the path.

        Args:
            path: for a format of one file an image, a folder, or a file with the format's suffix for a single image;
                else the file.
            annotations: of the same classes, and of different images.

        Raises:
            InputError: none; other classes; the same image twice; what the format has no place for (300 classes in
                8 bits). FileError: it cannot be written.
        """
        path = self.check_target(path)
        iterator = iter(annotations)
        first = next(iterator, None)
        if first is None:
            raise InputError(f"No annotations to write to {path}")
        self.save(path, first.classes, _consistent(first, iterator))
        return path

    @gateway
    def check_target(self, path: str | os.PathLike[str]) -> Path:
        """The path as one that `write` takes.

        Raises:
            InputError: this format is not written, or has all images in one file with its suffix, which it is not.
        """
        path = Path(path)
        if not self.writes:
            raise InputError(f"{type(self).__name__} is read, not written")
        if self.scope == "data set" and (path.is_dir() or path.suffix.lower() != self.suffix):
            raise InputError(f"{path} is not the name of a {self.suffix} file, which has all images of this format")
        return path

    @gateway
    def write_maps(
        self,
        path: str | os.PathLike[str],
        names: Sequence[str],
        colours: Sequence[Colour],
        maps: Iterable[tuple[str, LabelArray, Callable[[], Picture] | None]],
    ) -> Path:
        """As `write`, of plain values.

        Args:
            path: as `write`. names, colours: of the classes.
            maps: for each image its reference, its labels [H, W] and, for overlays, a call that gives its pixels.
        """
        classes = Classes(tuple(names), tuple(colours))
        return self.write(path, (Annotation(labels, classes, image, picture) for image, labels, picture in maps))


def _consistent(first: Annotation, others: Iterator[Annotation]) -> Iterator[Annotation]:
    yield first
    images = {first.image}
    for annotation in others:
        if annotation.classes != first.classes:
            raise InputError(f"{annotation.image} has other classes than {first.image}: give both the same")
        if annotation.image in images:
            raise InputError(f"{annotation.image} comes twice; expected one annotation an image")
        images.add(annotation.image)
        yield annotation
