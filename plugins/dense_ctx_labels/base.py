"""LabelFormat: interface of the formats that read and write label maps."""

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
    """Input of `LabelFormat.load`: an existing file or folder, and what the user states: images, class names, size."""

    path: Path
    images: ImageFiles | None = None
    classes: tuple[str, ...] | None = None
    size: Size | None = None

    def checked(self, labels: LabelArray, classes: Classes, image: str) -> Annotation:
        """Create an annotation, checked against the image's size, or `size` if given.

        Raises:
            InputError: another size. FileError: the folder of the images has no such image.
        """
        expected = self.size or (self.images.size(image) if self.images else None)
        check_size((labels.shape[0], labels.shape[1]), expected, image)
        picture = self.images.opener(image) if self.images else None
        return Annotation(labels, classes, image, picture)


class LabelFormat(ABC):
    """Reads and writes label maps in one file format. The constructor's arguments are the format's options.

    Attributes set by the subclass:
        title: description for lists.
        suffix: file name suffix, with the dot.
        scope: "image" for one file per image, "data set" for one file for all images.
        reads, writes: whether reading and writing are supported.
        path_options: options that name a file or folder of this machine; a request to a server may not set them.
    """

    title: ClassVar[str]
    suffix: ClassVar[str]
    scope: ClassVar[Literal["image", "data set"]] = "image"
    reads: ClassVar[bool] = True
    writes: ClassVar[bool] = True
    path_options: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether a file or folder looks like this format; `auto` needs exactly one format that says so."""
        return False

    def load(self, source: Source) -> AnnotationSet:
        """Read a source, whose path exists; errors as `open`."""
        raise InputError(f"{type(self).__name__} can be written but not read")

    def save(self, path: Path, classes: Classes, annotations: Iterator[Annotation]) -> None:
        """Write annotations: at least one, validated by `write`, with the same classes and different images."""
        raise InputError(f"{type(self).__name__} can be read but not written")

    @gateway
    def open(
        self,
        path: str | os.PathLike[str],
        *,
        images: str | os.PathLike[str] | None = None,
        classes: Sequence[str] | None = None,
        size: Size | None = None,
    ) -> AnnotationSet:
        """Open the annotations in a file, or in a folder of files.

        Args:
            path: a file of the format; for a format with one file per image also a folder, searched recursively.
            images: the folder of the images. Sizes are checked against them, and image paths must not leave it.
            classes: class names in the order of the ids; default: as in the file.
            size: (H, W) of every image, if the images are not available.

        Raises:
            FileError: the file is missing, damaged or of another format.
            InputError: a class that is not in `classes`, another size than the image's, a shape outside the image, an
                image path that leaves its folder.
        """
        path = Path(path)
        if not path.exists():
            raise FileError(f"No labels at {str(path)[:300]}")
        if isinstance(classes, str):
            raise InputError(f"classes is a list of names; got one text {classes[:80]!r}")
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
        """Read the annotation of a file with one image; arguments and errors as `open`."""
        annotations = self.open(path, images=images, classes=classes, size=size)
        if len(annotations) != 1:
            names = listed(annotations.images)
            raise InputError(f"{path} has the labels of {len(annotations)} images ({names}); expected one: open it")
        return annotations[0]

    @gateway
    def write(self, path: str | os.PathLike[str], annotations: Iterable[Annotation]) -> Path:
        """Write annotations, one at a time; returns the path.

        Args:
            path: for a format with one file per image, a folder, or for a single image a file with the format's
                suffix; otherwise the file.
            annotations: with the same classes and different images.

        Raises:
            InputError: no annotations, different classes, the same image twice, or something that the format cannot
                represent (300 classes in 8 bits).
            FileError: a file cannot be written.
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
        """Validate the path of `write`.

        Raises:
            InputError: the format cannot be written, or needs one file with its suffix for all images.
        """
        path = Path(path)
        if not self.writes:
            raise InputError(f"{type(self).__name__} can be read but not written")
        if self.scope == "data set" and (path.is_dir() or path.suffix.lower() != self.suffix):
            raise InputError(f"{path}: this format is one {self.suffix} file for all images; expected such a name")
        return path

    @gateway
    def write_maps(
        self,
        path: str | os.PathLike[str],
        names: Sequence[str],
        colours: Sequence[Colour],
        maps: Iterable[tuple[str, LabelArray, Callable[[], Picture] | None]],
    ) -> Path:
        """Write label maps without `Annotation` objects; errors as `write`.

        Args:
            path: as for `write`.
            names, colours: of the classes.
            maps: for each image its relative path, its labels [H, W] and, for overlays, a function that returns its
                pixels, uint8 [H, W, 3].
        """
        classes = Classes(tuple(names), tuple(colours))
        return self.write(path, (Annotation(labels, classes, image, picture) for image, labels, picture in maps))


def _consistent(first: Annotation, others: Iterator[Annotation]) -> Iterator[Annotation]:
    yield first
    images = {first.image}
    for annotation in others:
        if annotation.classes != first.classes:
            raise InputError(f"{annotation.image} has other classes than {first.image}; expected the same classes")
        if annotation.image in images:
            raise InputError(f"{annotation.image} occurs twice; expected one annotation per image")
        images.add(annotation.image)
        yield annotation
