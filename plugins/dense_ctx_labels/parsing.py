"""Read JSON, XML and text files of annotation tools, with errors that name the field."""

from __future__ import annotations

import math
import re
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from PIL import ImageColor

from dense_ctx.errors import FileError, InputError
from dense_ctx.files import MAX_JSON, read_json, read_text
from dense_ctx.interfaces import Size

from .classes import Colour

T = TypeVar("T")
MAX_BYTES = 1 << 30  # of a file with the labels of many images; the largest of COCO has 0.45 GB
_RGBA = re.compile(r"rgba\((\d+, *\d+, *\d+), *[\d.]+\)")
_WORDS: dict[type, str] = {str: "text", list: "a list", dict: "a mapping", int: "a whole number", float: "a number"}


def field(record: Any, key: str, kind: type[T]) -> T:
    """The value of a field of a JSON object.

    Raises:
        FileError: the record is not an object, or the field is missing or of another type.
        InputError: a number that is NaN or infinite.
    """
    if not isinstance(record, dict):
        raise FileError(f"expected a mapping with {key!r}; got {str(record)[:80]}")
    value = record.get(key)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 1e15 else math.inf
    if not isinstance(value, kind) or isinstance(value, bool):
        text = f"got {str(value)[:80]!r}" if key in record else f"it is missing from {', '.join(list(record)[:8])}"
        raise FileError(f"{key!r} must be {_WORDS[kind]}; {text}")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{key!r} is NaN or infinite")
    return value


def read_size(record: Any, height: str, width: str) -> Size | None:
    """(H, W) of a record; None if it has neither.

    Raises:
        FileError: only one of the two is given, or they are not whole numbers. InputError: one is not positive.
    """
    if isinstance(record, dict) and record.get(height) is None and record.get(width) is None:
        return None
    size = field(record, height, int), field(record, width, int)
    if min(size) < 1:
        raise InputError(f"{height!r} and {width!r} are above 0; got {size[0]} and {size[1]}")
    return size


def lines_of(path: Path) -> tuple[str, ...]:
    """The lines of a text file that are not blank.

    Raises:
        FileError: it cannot be read.
    """
    return tuple(line for line in map(str.strip, read_text(path, 1 << 22).splitlines()) if line)


def json_keys(path: Path) -> frozenset[str]:
    """Keys of the object in a JSON file, or "[]" and the keys of the first object in its list; empty for other files.

    Raises:
        FileError: it is larger than `MAX_BYTES`.
    """
    if path.suffix.lower() != ".json" or not path.is_file():
        return frozenset()
    info = path.stat()
    return _keys(path, info.st_size, info.st_mtime_ns)


@lru_cache(maxsize=4)
def _keys(path: Path, size: int, changed: int) -> frozenset[str]:
    """Cached, because `auto` asks several formats about the same file."""
    data = read_json(path, MAX_BYTES)
    if isinstance(data, list):
        return frozenset({"[]", *data[0]} if data and isinstance(data[0], dict) else {"[]"})
    return frozenset(data) if isinstance(data, dict) else frozenset()


def read_xml(path: Path) -> Element:
    """Parse an XML file. A document type, which could declare an entity bomb, is refused.

    Raises:
        FileError: it has a document type, is not XML, or is larger than 256 MB.
    """
    return parse_xml(read_text(path, MAX_JSON), str(path))


def parse_xml(text: str, name: str) -> Element:
    """Parse XML; errors as `read_xml`, about `name`."""
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise FileError(f"{name} declares a document type or entities, which no file of labels needs; it is not read")
    try:
        return ElementTree.fromstring(text)  # nosec B314  # no entities, see above
    except (ElementTree.ParseError, ValueError, RecursionError) as error:
        raise FileError(f"{name} is not XML: {error}") from None


def colour_of(text: str | None) -> Colour | None:
    """Parse a CSS colour to (R, G, B), without alpha; None if it is not one."""
    match = _RGBA.fullmatch(text or "")
    try:
        red, green, blue = ImageColor.getrgb(f"rgb({match[1]})" if match else text or "")[:3]
    except ValueError:
        return None
    return (red, green, blue) if max(red, green, blue) <= 255 else None


def hexadecimal(colour: Colour) -> str:
    """(R, G, B) as #rrggbb."""
    return "#{:02x}{:02x}{:02x}".format(*colour)
