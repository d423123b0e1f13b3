"""Formats `png` and `png-grey`: one label image per image; class names in labelmap.txt or classes.txt."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dense_ctx.errors import FileError, InputError, about
from dense_ctx.files import new_file, write_text
from dense_ctx.gateway import gateway
from dense_ctx.images import open_image

from .annotation import Annotation, AnnotationSet, LabelArray
from .base import LabelFormat, Source
from .classes import Classes, Colour
from .folders import files_below, write_each
from .parsing import lines_of

_MAP, _LIST = "labelmap.txt", "classes.txt"
_HEADER = "# label:color_rgb:parts:actions"  # of VOC as CVAT and datumaro write it


class PalettePng(LabelFormat):
    """`png`: 8-bit indices with a palette, as in VOC and DAVIS; 255 means not annotated.

    Names and colours are those of labelmap.txt in the folder (CVAT's, `name:R,G,B::`), or the names of classes.txt (one
    per line); without either the classes are `class 0` ... with the palette's colours. RGB pictures are read if
    labelmap.txt has their colours.

    Args:
        binary: whether 255 is a class, the foreground of a black and white mask. Default: true if all files hold only 0
            and 255 and there are no names, or two; a warning says so.
    """

    title = "palette PNG"
    suffix = ".png"
    bits = 8

    def __init__(self, binary: bool | None = None) -> None:
        self.binary = binary

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """PNG files, and folders of them without label files of another format (else the PNG files are images)."""
        if not path.is_dir():
            return path.suffix.lower() == ".png"
        suffixes = {file.suffix.lower() for file in path.rglob("*") if file.name not in (_MAP, _LIST)}
        return ".png" in suffixes and not suffixes & {".json", ".xml", ".txt", ".yaml"}

    def load(self, source: Source) -> AnnotationSet:
        """List the files, each read when its annotation is indexed; without class names, read all once for the ids."""
        files = files_below(source.path, self.suffix)
        top = source.path if source.path.is_dir() else source.path.parent
        names, colours = _beside(top)
        names = source.classes or names
        binary, highest = self.binary, 0
        if binary is None or not names:
            values = _values(files) if source.classes or not names else set()
            highest = max(values - {255, 65535}, default=0)
            if binary is None and (binary := values == {0, 255} and len(names or "12") == 2):
                warnings.warn(
                    f"{source.path} holds only 0 and 255: read as background and foreground; with binary=false 255 "
                    "means not annotated",
                    stacklevel=4,
                )
        if not names:
            names = ("background", "foreground") if binary else tuple(f"class {index}" for index in range(highest + 1))
        classes = Classes(names)
        classes = classes.with_colours(colours or _palette(files[0], names))

        def annotation(index: int) -> Annotation:
            with about(files[index]):
                labels = _labels(files[index], classes, bool(binary), colours)
                return source.checked(labels, classes, images[index])

        relative = [file.relative_to(top) for file in files]
        stems = [path.with_suffix("").as_posix() for path in relative]
        if source.images is None:
            images = [path.as_posix() for path in relative]
        else:
            images = [source.images.with_stem(stem) for stem in stems]
        return AnnotationSet(classes, images, annotation)

    def save(self, path: Path, classes: Classes, annotations: Iterator[Annotation]) -> None:
        """Write one file per image, and labelmap.txt."""
        if self.bits == 8 and classes.ignore > 255:
            raise InputError(f"A palette PNG holds at most 255 classes; got {len(classes)}: write png-grey")
        folder = write_each(path, self.suffix, annotations, self._write)
        _write_map(folder / _MAP, classes)

    @gateway
    def write_names(self, folder: str | os.PathLike[str], names: Sequence[str], colours: Sequence[Colour]) -> Path:
        """Write labelmap.txt alone, into a folder of label images whose ids are the places of `names`; its path.

        Raises:
            InputError: a name or a colour that is none, or two equal names. FileError: it cannot be written.
        """
        path = Path(folder) / _MAP
        _write_map(path, Classes(tuple(names), tuple(colours)))
        return path

    def _write(self, file: Path, annotation: Annotation) -> None:
        image = Image.fromarray(annotation.labels)
        colours = [*annotation.classes.colours, *[(0, 0, 0)] * (255 - len(annotation.classes)), (224, 224, 192)]
        image.putpalette([part for colour in colours for part in colour])  # the last is VOC's colour for void
        _save(image, file)


class GreyPng(PalettePng):
    """`png-grey`: grey values; with more than 255 classes 16-bit, where 65535 means not annotated. Else as `png`."""

    title = "grey PNG, 8 or 16 bits"
    bits = 16

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Never: `png` reads these files too."""
        return False

    def _write(self, file: Path, annotation: Annotation) -> None:
        _save(Image.fromarray(annotation.labels), file)


def _save(image: Image.Image, file: Path) -> None:
    with new_file(file, f"the labels {file}", sync=False) as partial:
        image.save(partial, format="PNG")


def _pixels(file: Path) -> tuple[np.ndarray[Any, np.dtype[Any]], Image.Image]:
    image = open_image(file)
    if image.mode in ("LA", "PA") or "transparency" in image.info:
        raise InputError("It has transparency; expected a palette, grey or RGB image without an alpha channel")
    if image.mode == "1":
        image = image.convert("L")
    if image.mode not in ("P", "L", "RGB", "I") and not image.mode.startswith("I;16"):
        raise InputError(f"It is a {image.mode} picture; expected a palette, grey or RGB image")
    return np.asarray(image), image


def _values(files: Sequence[Path]) -> set[int]:
    """All values in the files.

    Raises:
        InputError: an RGB picture.
    """
    values: set[int] = set()
    for file in files:
        with about(file):
            pixels, _ = _pixels(file)
            if pixels.ndim == 3:
                raise InputError(f"It is an RGB picture, and there is no {_MAP} with the colours of classes beside it")
        values.update(np.unique(pixels).tolist())
    return values


def _labels(file: Path, classes: Classes, binary: bool, colours: dict[str, Colour]) -> LabelArray:
    pixels, image = _pixels(file)
    if pixels.ndim == 3:
        return _of_colours(pixels, classes, colours)
    labels = pixels.astype(np.int64)
    ignore = 255 if image.mode in ("P", "L") else 65535
    if binary:
        other = np.unique(labels[(labels != 0) & (labels != ignore)])
        if len(classes) != 2 or other.size:
            what = f"the values {', '.join(map(str, other[:5]))}" if other.size else f"{len(classes)} classes"
            raise InputError(f"A black and white mask has two classes, and values 0 and {ignore}; got {what}")
        foreground: LabelArray = (labels == ignore).astype(np.int64)
        return foreground
    labels[pixels == ignore] = classes.ignore
    clash = (pixels == classes.ignore) & (pixels != ignore)
    if clash.any():
        raise InputError(f"It holds {classes.ignore}, the id of no class; in 16 bits 65535 means not annotated")
    return labels


def _of_colours(pixels: np.ndarray[Any, np.dtype[Any]], classes: Classes, colours: dict[str, Colour]) -> LabelArray:
    if not colours:
        raise InputError(f"It is an RGB picture, and there is no {_MAP} with the colours of classes beside it")
    if len(set(colours.values())) < len(colours):
        raise InputError(f"It is an RGB picture, and two classes of {_MAP} have the same colour")
    code = pixels.astype(np.int64) @ np.array([65536, 256, 1])
    labels = np.full(code.shape, -1, dtype=np.int64)
    for name, (red, green, blue) in colours.items():
        labels[code == red * 65536 + green * 256 + blue] = classes.id(name)
    if (labels < 0).any():
        first = pixels[labels < 0][0].tolist()
        raise InputError(f"{int((labels < 0).sum())} pixels have colours of no class in {_MAP}, such as {first}")
    return labels


def _beside(folder: Path) -> tuple[tuple[str, ...], dict[str, Colour]]:
    """Names, and colours if stated, of labelmap.txt or classes.txt in a folder of label images."""
    path = folder / _MAP
    if not path.is_file():
        return (lines_of(folder / _LIST) if (folder / _LIST).is_file() else ()), {}
    colours: dict[str, Colour] = {}
    for line in lines_of(path):
        if line.startswith("#"):
            continue
        name, *rest = line.rsplit(":", 3)
        parts = rest[0].split(",") if rest else []
        if len(rest) != 3 or len(parts) != 3 or not all(p.strip().isdecimal() and int(p) < 256 for p in parts):
            raise FileError(f"{path}: expected name:R,G,B:parts:actions; got {line[:80]!r}")
        if name in colours:
            raise FileError(f"{path}: {name!r} occurs twice")
        colours[name] = int(parts[0]), int(parts[1]), int(parts[2])
    return tuple(colours), colours


def _write_map(path: Path, classes: Classes) -> None:
    for name in classes.names:
        if name.startswith("#"):
            raise InputError(f"{path} cannot hold the name {name!r}: # begins a comment there")
    lines = [f"{n}:{r},{g},{b}::" for n, (r, g, b) in zip(classes.names, classes.colours, strict=True)]
    text = "\n".join((_HEADER, *lines)) + "\n"
    if not path.is_file() or path.read_bytes() != text.encode():
        write_text(path, text)


def _palette(file: Path, names: tuple[str, ...]) -> dict[str, Colour]:
    """The colours of a file's palette."""
    with about(file):
        _, image = _pixels(file)
    parts = (image.getpalette() or []) if image.mode == "P" else []
    table = [(parts[i], parts[i + 1], parts[i + 2]) for i in range(0, len(parts) - 2, 3)]
    return dict(zip(names, table, strict=False))
