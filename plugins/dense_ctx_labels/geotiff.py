"""Format `geotiff`: labels with a georeference, and rasters larger than memory; needs rasterio (extra `geo`)."""

from __future__ import annotations

import contextlib
import json
import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window as GdalWindow

from dense_ctx.errors import FileError, InputError, about
from dense_ctx.files import new_file, regular_size
from dense_ctx.interfaces import Size

from .annotation import Annotation, AnnotationSet, Picture
from .base import Source
from .classes import Classes
from .folders import files_below, write_each
from .shapes import check_pixels
from .windows import LabelSink, Raster, Window, WindowedFormat, check_span, to_picture

_NAMESPACE, _KEY = "DENSE_CTX", "CLASSES"
_BLOCK = 256  # pixels of a tile's side, in the files


class GeoTiff(WindowedFormat):
    """`geotiff`: one band of ids, tiled and compressed; pixels that are not annotated have the no-data value.

    Class names are stored in a tag, colours in the 8-bit colour table, which GIS programs show. In a file without the
    tag the classes are `class 0` ... Only GeoTIFF is read, not the other formats of GDAL.

    Args:
        like: a GeoTIFF, or a folder of GeoTIFFs named as the images, whose georeference the written labels copy.
            Default: none; labels written window by window copy that of their image.
        bands: 1-based bands of an image to use as red, green and blue; default: the only band, or the first three of
            three or four.
        span: values of an image to map to black and white, such as [0, 10000]; required unless the image has 8 bits.
    """

    title = "GeoTIFF with its georeference"
    path_options = frozenset({"like"})
    suffix = ".tif"

    def __init__(
        self, like: str | None = None, bands: Sequence[int] | None = None, span: Sequence[float] | None = None
    ) -> None:
        if bands is not None and (len(bands) not in (1, 3) or min(bands) < 1):
            raise InputError(f"bands are one or three numbers from 1; got {list(bands)}")
        self.like, self.bands, self.span = like, bands, check_span(span)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """TIFF files."""
        suffixes = (".tif", ".tiff")
        return path.suffix.lower() in suffixes or (path.is_dir() and any(path.rglob("*.tif")) and not _others(path))

    def load(self, source: Source) -> AnnotationSet:
        """List the files; each is read when its annotation is indexed."""
        files = files_below(source.path, self.suffix)
        top = source.path if source.path.is_dir() else source.path.parent
        stems = [file.relative_to(top).with_suffix("").as_posix() for file in files]
        images = [source.images.with_stem(stem) if source.images else f"{stem}.tif" for stem in stems]
        contents = [_content(file) for file in files]
        for file, content in zip(files, contents, strict=True):
            if (content is None) != (contents[0] is None) or (content and contents[0] and content != contents[0]):
                raise InputError(f"{file} has other classes than {files[0]}: open them separately")
        classes = contents[0] or _unnamed(files, source.classes)
        if source.classes is not None:
            classes = Classes(source.classes, tuple(_colours(classes, source.classes)))
        names = (contents[0] or classes).names

        def annotation(index: int) -> Annotation:
            with about(files[index]), _opened(files[index]) as file:
                check_pixels((file.height, file.width))
                values = _label_band(file)
                nodata = file.nodata if file.nodata is not None else classes.ignore
                table = np.array([classes.id(name) for name in names], dtype=np.int64)
                void = values == nodata
                if (beyond := values[~void & (values >= len(names))]).size:
                    raise InputError(f"{beyond.size} pixels hold {beyond[0]}; expected ids of {len(names)} classes")
                labels = table[np.where(void, 0, values)]
                labels[void] = classes.ignore
                return source.checked(labels, classes, images[index])

        return AnnotationSet(classes, images, annotation)

    def save(self, path: Path, classes: Classes, annotations: Iterator[Annotation]) -> None:
        """Write one file per image."""

        def write(file: Path, annotation: Annotation) -> None:
            height, width = annotation.labels.shape
            with self.sink(file, self._like(annotation.image), (height, width), classes) as sink:
                sink.write(Window(0, 0, height, width), annotation.labels)

        write_each(path, self.suffix, annotations, write)

    def _like(self, image: str) -> Path | None:
        if self.like is None or not Path(self.like).is_dir():
            return None if self.like is None else Path(self.like)
        return (Path(self.like) / image).with_suffix(self.suffix)

    @contextlib.contextmanager
    def raster(self, path: Path) -> Iterator[Raster]:
        """Open an image for reading by windows."""
        with _opened(path) as file:
            bands = self.bands or ([1] if file.count == 1 else [1, 2, 3] if file.count in (3, 4) else None)
            if bands is None or max(bands) > file.count:
                raise InputError(
                    f"{path} has {file.count} bands; name those of red, green and blue, such as bands=[4, 3, 2]"
                )
            yield _Raster(file, list(bands), self.span, str(path))

    @contextlib.contextmanager
    def sink(self, path: Path, image: Path | None, size: Size, classes: Classes) -> Iterator[LabelSink]:
        """Open a label file for writing by windows, with the georeference of `image`."""
        profile = {"driver": "GTiff", "height": size[0], "width": size[1], "count": 1, "dtype": classes.dtype.name,
                   "nodata": classes.ignore, "tiled": True, "blockxsize": _BLOCK, "blockysize": _BLOCK,
                   "compress": "deflate", "bigtiff": "if_safer", **_georeference(image, size)}  # fmt: skip
        with (
            new_file(path, f"the labels {path}", faults=(RasterioError,), sync=False) as partial,
            _quiet(),
            rasterio.open(partial, "w", **profile) as file,
        ):
            file.update_tags(ns=_NAMESPACE, **{_KEY: json.dumps([classes.names, classes.colours])})
            if classes.dtype == np.uint8:
                colours = {index: (*colour, 255) for index, colour in enumerate(classes.colours)}
                file.write_colormap(1, {**colours, classes.ignore: (0, 0, 0, 0)})
            yield _Sink(file)


class _Raster:
    def __init__(self, file: Any, bands: list[int], span: tuple[float, float] | None, name: str) -> None:
        self._file, self._bands, self._span, self._name = file, bands, span, name

    @property
    def size(self) -> Size:
        return self._file.height, self._file.width

    def read(self, window: Window) -> Picture:
        with _translated(self._name):
            values = self._file.read(self._bands, window=_gdal(window))
        return to_picture(np.moveaxis(values, 0, 2), self._span, self._name)


class _Sink:
    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, window: Window, labels: Any) -> None:
        self._file.write(labels, 1, window=_gdal(window))


def _gdal(window: Window) -> GdalWindow:
    return GdalWindow(window.left, window.top, window.width, window.height)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress rasterio's warning about files without a georeference."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


@contextlib.contextmanager
def _translated(name: str) -> Iterator[None]:
    try:
        yield
    except RasterioError as error:
        raise FileError(f"{name} cannot be read as a GeoTIFF: {error}") from None


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    regular_size(path)
    with _translated(str(path)), _quiet():
        file = rasterio.open(path, driver="GTiff")
    with file:
        yield file


def _label_band(file: Any) -> np.ndarray[Any, np.dtype[np.int64]]:
    if file.count != 1 or np.dtype(file.dtypes[0]).kind not in "iu":
        raise InputError(f"It has {file.count} bands of {file.dtypes[0]}; expected one band of integers, the labels")
    with _translated(file.name):
        values: np.ndarray[Any, np.dtype[np.int64]] = file.read(1).astype(np.int64)
    if int(values.min()) < 0 and file.nodata != values.min():
        raise InputError(f"It holds {values.min()}; expected ids, at least 0")
    return values


def _content(path: Path) -> Classes | None:
    """The classes that a file states; None if it states none."""
    with _opened(path) as file:
        text = file.tags(ns=_NAMESPACE).get(_KEY)
    if text is None:
        return None
    try:
        names, colours = json.loads(text)
        return Classes(tuple(names), tuple(tuple(colour) for colour in colours))
    except (ValueError, TypeError, RecursionError) as error:
        raise FileError(f"{path}: its tag {_KEY} does not hold classes: {error}") from None


def _unnamed(files: Sequence[Path], names: tuple[str, ...] | None) -> Classes:
    if names is not None:
        return Classes(names)
    highest = 0
    for path in files:
        with about(path), _opened(path) as file:
            check_pixels((file.height, file.width))
            values = _label_band(file)
            labels = values[values != (255 if file.nodata is None else file.nodata)]
            highest = max(highest, int(labels.max(initial=0)))
    return Classes(tuple(f"class {index}" for index in range(highest + 1)))


def _colours(classes: Classes, names: tuple[str, ...]) -> Iterator[tuple[int, int, int]]:
    defaults = Classes(names).colours
    for name, colour in zip(names, defaults, strict=True):
        yield classes.colours[classes.names.index(name)] if name in classes.names else colour


def _georeference(image: Path | None, size: Size) -> dict[str, Any]:
    if image is None:
        return {}
    with _opened(image) as file:
        if (file.height, file.width) != size:
            raise InputError(
                f"The labels are {size[0]} x {size[1]} (H x W), {image} is {file.height} x {file.width}: "
                "its georeference does not apply to them"
            )
        if not all(map(math.isfinite, file.transform)):
            raise FileError(f"{image} has a georeference that is not finite")
        points, crs = file.gcps  # where there is no transform
        return {"crs": crs, "gcps": points} if points else {"crs": file.crs, "transform": file.transform}


def _others(path: Path) -> bool:
    """Whether a folder has label files of another format, so that its TIFF files are images."""
    return any(file.suffix.lower() in (".json", ".xml", ".txt", ".yaml", ".png") for file in path.rglob("*"))
