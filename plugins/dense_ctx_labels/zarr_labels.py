"""Format `ome-zarr`: label images within images, also larger than memory, and plain arrays (extra `zarr`)."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from dense_ctx.errors import FileError, InputError, about, cause_of
from dense_ctx.interfaces import Size
from dense_ctx.partial_files import unique

from .annotation import Annotation, AnnotationSet, Picture
from .base import Source
from .classes import IGNORE_NAME, LIMIT, Classes, Colour
from .folders import write_each
from .shapes import check_pixels
from .windows import LabelSink, Raster, Window, WindowedFormat, check_span, to_picture
from .zarr_metadata import (
    Node,
    Version,
    array_of,
    classes_of,
    is_node,
    label_metadata,
    names_of_labels,
    node_of,
    size_of,
)

_CHUNK = 512  # pixels of a chunk's side, in the files
_LABELS = "labels"


class OmeZarr(WindowedFormat):
    """`ome-zarr` (https://ngff.openmicroscopy.org): label images of OME-Zarr 0.4 and 0.5, and plain zarr arrays.

    Labels are at `IMAGE.zarr/labels/NAME`, with names and colours of the classes. They are added to an existing image,
    in its version; otherwise a new file with the labels alone is written, in 0.5.

    Args:
        name: of the label image; optional when reading an image with only one.
        bands: 1-based channels of an image to use as red, green and blue; default: the only channel, or the first three
            of three or four.
        span: values of an image to map to black and white; required unless the image has 8 bits.
    """

    title = "OME-Zarr label images; reads plain zarr arrays too"
    suffix = ".zarr"

    def __init__(
        self, name: str | None = None, bands: Sequence[int] | None = None, span: Sequence[float] | None = None
    ) -> None:
        if name is not None and (not name.replace("-", "_").isidentifier() or not name.isascii()):
            raise InputError(f"ome-zarr: name is letters, digits, - and _; got {name!r}")
        if bands is not None and (len(bands) not in (1, 3) or min(bands) < 1):
            raise InputError(f"bands are one or three numbers from 1; got {list(bands)}")
        self.name, self.bands, self.span = name, bands, check_span(span)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """A zarr group or array, or a folder with such called *.zarr."""
        return path.is_dir() and (is_node(path) or any(is_node(one) for one in path.rglob("*.zarr")))

    def load(self, source: Source) -> AnnotationSet:
        """List the label images; each is read when its annotation is indexed."""
        roots = [source.path] if is_node(source.path) else sorted(p for p in source.path.rglob("*.zarr") if is_node(p))
        if not roots:
            raise FileError(f"{source.path} is not a zarr group or array, and contains none")
        top = source.path.parent if is_node(source.path) else source.path
        stems = [root.relative_to(top).with_suffix("").as_posix() for root in roots]
        images = [source.images.with_stem(stem) if source.images else f"{stem}.zarr" for stem in stems]
        paths = [self._label_image(root) for root in roots]
        tables = [_table(path) for path in paths]
        if any(table != tables[0] for table in tables):
            raise InputError(f"The label images in {source.path} have different classes: open them separately")
        names, colours = tables[0]
        classes = Classes(source.classes or tuple(name for name in names.values() if name != IGNORE_NAME))
        classes = classes.with_colours(colours)

        def annotation(index: int) -> Annotation:
            with about(paths[index]):
                node, axes, _ = array_of(paths[index])
                check_pixels(size_of(node, axes))
                values = _plane(node, axes)
                labels = np.full(values.shape, -1, dtype=np.int64)
                for value, name in names.items():
                    labels[values == value] = classes.id(name)
                if (labels < 0).any():
                    raise InputError(
                        f"{int((labels < 0).sum())} pixels hold {values[labels < 0][0]}, which has no name"
                    )
                return source.checked(labels, classes, images[index])

        return AnnotationSet(classes, images, annotation)

    def _label_image(self, root: Path) -> Path:
        names = names_of_labels(root)
        if self.name is not None and names and self.name not in names:
            raise InputError(f"{root} has no labels {self.name!r}; it has {', '.join(names)}")
        if self.name is None and len(names) > 1:
            raise InputError(f"{root} has the labels {', '.join(names)}; choose one, such as name={names[0]}")
        return root / _LABELS / (self.name or names[0]) if names else root

    def save(self, path: Path, classes: Classes, annotations: Iterator[Annotation]) -> None:
        """Write one file per image."""

        def write(file: Path, annotation: Annotation) -> None:
            height, width = annotation.labels.shape
            with self.sink(file, None, (height, width), classes) as sink:
                sink.write(Window(0, 0, height, width), annotation.labels)

        write_each(path, self.suffix, annotations, write)

    @contextlib.contextmanager
    def raster(self, path: Path) -> Iterator[Raster]:
        """Open an image for reading by windows."""
        node, axes, _ = array_of(path)
        count = dict(zip(axes, node.shape or (), strict=True)).get("c", 1)
        bands = self.bands or ([1] if count == 1 else [1, 2, 3] if count in (3, 4) else None)
        if bands is None or max(bands) > count:
            raise InputError(f"{path} has {count} channels; name those of red, green and blue, such as bands=[3, 2, 1]")
        yield _Raster(node, axes, [band - 1 for band in bands], self.span)

    @contextlib.contextmanager
    def sink(self, path: Path, image: Path | None, size: Size, classes: Classes) -> Iterator[LabelSink]:
        """Open a label image for writing by windows, added to `path` if it is an image; pixel size as `image`."""
        name = self.name or "classes"
        root = path if is_node(path) else None
        version: Version = 3
        pixel = 1.0, 1.0
        for reference in filter(None, (image, root)):
            node, axes, pixel = array_of(reference)
            if size_of(node, axes) != size:
                raise InputError(f"The labels are {list(size)} (H, W), {reference} is {list(size_of(node, axes))}")
        if root is not None:
            version = node_of(root).version
            if name in (others := names_of_labels(root)) or (root / _LABELS / name).exists():
                raise InputError(f"{root} already has labels {name!r}; use another name than {', '.join(others)}")
        partial = path.with_name(f".{path.stem}.{unique()}.partial")
        try:
            # the label image is complete before it gets its name
            top = zarr.create_group(str(partial), zarr_format=version)
            holder = top if root else top.create_group(_LABELS, attributes=_listed([name], version))
            group = holder.create_group(name, attributes=label_metadata(name, classes, pixel, version))
            chunks = (min(_CHUNK, size[0]), min(_CHUNK, size[1]))
            dimensions = ("y", "x") if version == 3 else None
            dtype = classes.dtype.name
            yield _Sink(
                group.create_array(
                    "0", shape=size, chunks=chunks, dtype=dtype, fill_value=classes.ignore, dimension_names=dimensions
                )
            )
            if root is None:
                path.parent.mkdir(parents=True, exist_ok=True)
                partial.rename(path)
            else:
                _add(partial / name, root, name, version)
        except OSError as error:
            raise FileError(f"Cannot write the labels {path}: {error}") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _add(label_image: Path, root: Path, name: str, version: Version) -> None:
    """Move a finished label image into an image, and list it there."""
    names = [*names_of_labels(root), name]
    labels = root / _LABELS
    if not is_node(labels):
        zarr.create_group(str(labels), zarr_format=version)
    label_image.rename(labels / name)
    group = zarr.open_group(str(labels), mode="r+", zarr_format=version)
    group.attrs.update(_listed(names, version))


def _listed(names: list[str], version: Version) -> dict[str, Any]:
    return {"ome": {"version": "0.5", "labels": names}} if version == 3 else {"labels": names}


def _table(path: Path) -> tuple[dict[int, str], dict[str, Colour]]:
    """Names and colours of the values of a label image; names `class 0` ... if it states none."""
    names, colours = classes_of(path)
    if names:
        return names, colours
    node, axes, _ = array_of(path)
    check_pixels(size_of(node, axes))
    highest = int(_plane(node, axes).max())
    if highest >= LIMIT:
        raise InputError(f"{path} holds {highest}; expected class ids below {LIMIT}, not instance ids")
    return {index: f"class {index}" for index in range(highest + 1)}, {}


def _plane(node: Node, axes: tuple[str, ...]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The values of a label image, [H, W]."""
    values = _values(node, axes, slice(None), slice(None), None)
    if values.dtype.kind not in "iu" or values.shape[2] != 1 or int(values.min()) < 0:
        raise InputError(
            f"{node.path} holds {values.shape[2]} channels of {values.dtype}, from {values.min()}; expected one of ids"
        )
    return values[..., 0].astype(np.int64)


def _values(
    node: Node, axes: tuple[str, ...], rows: slice, columns: slice, bands: list[int] | None
) -> np.ndarray[Any, np.dtype[Any]]:
    """A window of an array as [h, w, B], of all channels or some."""
    parts = {"y": rows, "x": columns, "c": slice(None)}
    try:
        array = zarr.open_array(str(node.path), mode="r")
        values = np.asarray(array[tuple(parts.get(axis, 0) for axis in axes)])
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        raise FileError(f"{node.path} cannot be read: {cause_of(error)}") from None
    if "c" not in axes:
        return values[..., None]
    values = np.moveaxis(values, [axis for axis in axes if axis in "cyx"].index("c"), -1)
    return values if bands is None else values[..., bands]


class _Raster:
    def __init__(self, node: Node, axes: tuple[str, ...], bands: list[int], span: tuple[float, float] | None) -> None:
        self._node, self._axes, self._bands, self._span = node, axes, bands, span
        self.size = size_of(node, axes)

    def read(self, window: Window) -> Picture:
        rows = slice(window.top, window.top + window.height)
        columns = slice(window.left, window.left + window.width)
        values = _values(self._node, self._axes, rows, columns, self._bands)
        return to_picture(values, self._span, str(self._node.path))


class _Sink:
    def __init__(self, array: Any) -> None:
        self._array = array

    def write(self, window: Window, labels: Any) -> None:
        rows = slice(window.top, window.top + window.height)
        self._array[rows, window.left : window.left + window.width] = labels
