"""Read and validate the JSON metadata of a zarr hierarchy, before any data is decoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal, TypeAlias

from dense_ctx.errors import FileError, InputError
from dense_ctx.files import read_json
from dense_ctx.interfaces import Size

from .classes import IGNORE_NAME, Classes, Colour
from .references import checked_reference
from .shapes import MAX_PIXELS

# codecs that cannot create objects: numcodecs has one that unpickles
_CODECS = {"bytes", "blosc", "gzip", "zlib", "zstd", "lz4", "bz2", "lzma", "crc32c", "sharding_indexed", "transpose"}
_MAX_BYTES = 1 << 24  # of one file of metadata


Version: TypeAlias = Literal[2, 3]


@dataclass(frozen=True)
class Node:
    """A group or an array: its folder, its version of zarr, its attributes; the shape of an array."""

    path: Path
    version: Version
    attributes: Mapping[str, Any]
    shape: tuple[int, ...] | None = None

    @property
    def ome(self) -> Mapping[str, Any]:
        """OME-Zarr's attributes: under "ome" in version 0.5, at the top level in 0.4."""
        inner = self.attributes.get("ome", self.attributes)
        return inner if isinstance(inner, dict) else {}


def is_node(path: Path) -> bool:
    """Whether a folder is a zarr group or array."""
    return any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zarray"))


def node_of(path: Path) -> Node:
    """Read a node.

    Raises:
        FileError: it is not a node, its metadata is damaged, or it uses a codec that is not allowed.
    """
    try:
        if (path / "zarr.json").is_file():
            data = read_json(path / "zarr.json", _MAX_BYTES)
            attributes = _mapping(path, data.get("attributes") or {})
            if data.get("node_type") != "array":
                return Node(path, 3, attributes)
            _check_codecs(path, data["codecs"])
            chunks = data["chunk_grid"]["configuration"]["chunk_shape"]
            return _array(path, 3, attributes, data["shape"], chunks, data["data_type"])
        attributes = _mapping(path, read_json(path / ".zattrs", _MAX_BYTES) if (path / ".zattrs").is_file() else {})
        if not (path / ".zarray").is_file():
            if not (path / ".zgroup").is_file():
                raise FileError(f"{path} is not a zarr group or array")
            return Node(path, 2, attributes)
        data = read_json(path / ".zarray", _MAX_BYTES)
        _check_codecs(path, [*(data.get("filters") or []), *([data["compressor"]] if data["compressor"] else [])])
        return _array(path, 2, attributes, data["shape"], data["chunks"], data["dtype"])
    except (KeyError, TypeError, AttributeError) as error:
        raise FileError(f"{path} has damaged zarr metadata: {error!r}") from None


def _mapping(path: Path, attributes: Any) -> Mapping[str, Any]:
    if not isinstance(attributes, dict):
        raise FileError(f"{path} has damaged zarr metadata: its attributes are not a mapping")
    return attributes


def _check_codecs(path: Path, codecs: Any) -> None:
    for codec in codecs:
        name = codec.get("name", codec.get("id"))
        if name not in _CODECS:
            raise FileError(
                f"{path} uses the codec {str(name)[:40]!r}, which is not allowed; expected {', '.join(_CODECS)}"
            )
        configuration = codec.get("configuration") or {}
        _check_codecs(path, [*configuration.get("codecs", []), *configuration.get("index_codecs", [])])


def _array(path: Path, version: Version, attributes: Any, shape: Any, chunks: Any, dtype: Any) -> Node:
    sides = (*shape, *chunks)
    if not all(isinstance(side, int) and side > 0 for side in sides) or len(shape) != len(chunks):
        raise FileError(f"{path} has an invalid shape: {shape} in chunks of {chunks}")
    if prod(chunks) > MAX_PIXELS:
        raise FileError(f"{path} has chunks of {prod(chunks):,} values; at most {MAX_PIXELS:,} are read")
    if str(dtype).lstrip("<>|=").rstrip("0123456789") not in ("u", "i", "f", "b", "uint", "int", "float", "bool"):
        raise FileError(f"{path} has values of type {str(dtype)[:40]!r}; expected numbers")
    return Node(path, version, attributes, tuple(shape))


def array_of(path: Path) -> tuple[Node, tuple[str, ...], tuple[float, float]]:
    """The full-resolution array of an image or label image, the names of its axes, and the size of a pixel (y, x).

    A plain array [H, W] or [H, W, C] with one, three or four channels is accepted too.

    Raises:
        FileError: there is no such array.
    """
    node = node_of(path)
    if node.shape is not None:
        axes = {2: ("y", "x"), 3: ("y", "x", "c")}.get(len(node.shape))
        if axes is None or (len(node.shape) == 3 and node.shape[2] not in (1, 3, 4)):
            raise FileError(f"{path} is an array {list(node.shape)}; expected [H, W] or [H, W, 3]")
        return node, axes, (1.0, 1.0)
    try:
        (scales, *_) = node.ome["multiscales"]
        axes = tuple(axis["name"] if isinstance(axis, dict) else axis for axis in scales["axes"])
        first = scales["datasets"][0]
        array = node_of(path / checked_reference(first["path"]))
        scale = next((t["scale"] for t in first.get("coordinateTransformations", []) if t["type"] == "scale"), None)
        pixel = (float(scale[-2]), float(scale[-1])) if scale else (1.0, 1.0)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise FileError(f"{path} is not an OME-Zarr image: {error!r}") from None
    if array.shape is None or len(array.shape) != len(axes) or axes[-2:] != ("y", "x"):
        raise FileError(f"{path} has axes {axes}; expected them to end in y and x, one for each side of {array.shape}")
    return array, axes, pixel


def names_of_labels(path: Path) -> list[str]:
    """Names of the label images of an OME-Zarr image."""
    if not is_node(path / "labels"):
        return []
    names = node_of(path / "labels").ome.get("labels", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise FileError(f"{path / 'labels'} does not list its label images")
    return [checked_reference(name) for name in names]


def classes_of(path: Path) -> tuple[dict[int, str], dict[str, Colour]]:
    """Names of the values of a label image (id -> name), and colours (name -> (R, G, B))."""
    content = node_of(path).ome.get("image-label") or {}
    names: dict[int, str] = {}
    colours: dict[str, Colour] = {}
    try:
        for item in content.get("properties") or []:
            name = item.get("name", item.get("class"))
            if isinstance(name, str) and isinstance(item["label-value"], int):
                names[item["label-value"]] = name
        for item in content.get("colors") or []:
            if (name := names.get(item["label-value"])) is not None and item.get("rgba"):
                red, green, blue = (int(part) for part in item["rgba"][:3])
                colours[name] = red, green, blue
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise FileError(f"{path} has a damaged image-label: {error!r}") from None
    if len(set(names.values())) < len(names):
        raise InputError(f"{path} has the same name for two values")
    return names, colours


def label_metadata(name: str, classes: Classes, pixel: tuple[float, float], version: Version) -> dict[str, Any]:
    """The attributes of a label image: of OME-Zarr 0.5 in zarr 3, of 0.4 in zarr 2."""
    release = "0.5" if version == 3 else "0.4"
    axes = [{"name": axis, "type": "space"} for axis in "yx"]
    scale = [{"type": "scale", "scale": list(pixel)}]
    scales = {"name": name, "axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}
    colours = [{"label-value": index, "rgba": [*colour, 255]} for index, colour in enumerate(classes.colours)]
    values = [*enumerate(classes.names), (classes.ignore, IGNORE_NAME)]
    label = {
        "colors": [*colours, {"label-value": classes.ignore, "rgba": [0, 0, 0, 0]}],
        "properties": [{"label-value": index, "name": text} for index, text in values],
        "source": {"image": "../../"},
    }
    if version == 3:
        return {"ome": {"version": release, "multiscales": [scales], "image-label": label}}
    return {"multiscales": [{**scales, "version": release}], "image-label": {**label, "version": release}}


def size_of(node: Node, axes: tuple[str, ...]) -> Size:
    """(H, W) of an array.

    Raises:
        InputError: an axis other than y, x and channels has a length above 1.
    """
    sides = dict(zip(axes, node.shape or (), strict=True))
    if any(side > 1 for axis, side in sides.items() if axis not in ("y", "x", "c")):
        raise InputError(f"{node.path} has {sides}; expected one image: a single time and depth")
    return sides["y"], sides["x"]
