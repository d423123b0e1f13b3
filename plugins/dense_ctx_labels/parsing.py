"""Fields of JSON records, and text of XML, whose absence or type is an error in words."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, TypeVar

from dense_ctx.errors import FileError, InputError
from dense_ctx.files import read_text
from dense_ctx.interfaces import Size

T = TypeVar("T")
_WORDS: dict[type, str] = {str: "text", list: "a list", dict: "a mapping", int: "a whole number", float: "a number"}


def field(record: Any, key: str, kind: type[T]) -> T:
    """A field of a record.

    Raises:
        FileError: the record is no mapping, it has no such field, or one of another type.
    """
    if not isinstance(record, dict):
        raise FileError(f"expected a mapping with {key!r}; got {str(record)[:80]}")
    value = record.get(key)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 1e15 else math.inf
    if not isinstance(value, kind) or isinstance(value, bool):
        shown = f"got {str(value)[:80]!r}" if key in record else f"there is none among {', '.join(list(record)[:8])}"
        raise FileError(f"{key!r} is {_WORDS[kind]}; {shown}")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{key!r} is NaN or infinite")
    return value


def read_size(record: Any, height: str, width: str) -> Size | None:
    """(H, W) of a record; None where it has neither.

    Raises:
        FileError: one of two, or not whole numbers. InputError: not above 0.
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
