"""Format `auto`: detect the format of a file or folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dense_ctx import registry
from dense_ctx.errors import FileError, InputError, PluginError
from dense_ctx.plugins import blamed

from .annotation import AnnotationSet
from .base import LabelFormat, Source


class Auto(LabelFormat):
    """`auto`: read with the registered format that recognises the file.

    Args:
        options: of that format.
    """

    title = "detected among the formats below"
    suffix = ""
    writes = False

    def __init__(self, **options: Any) -> None:
        self.options = options

    def load(self, source: Source) -> AnnotationSet:
        """Read with the only format that recognises the path."""
        name = recognised(source.path)
        part: LabelFormat = registry().create("label-format", name, **self.options)
        with blamed("label-format", name):
            return part.load(source)


def recognised(path: Path) -> str:
    """Name of the only format that recognises a file or folder.

    Raises:
        FileError: no format recognises it. InputError: several formats do.
    """
    names = []
    for entry in registry().entries("label-format"):
        try:
            kind = registry().resolve(entry)
        except PluginError:  # an optional package that is absent or broken
            continue
        if isinstance(kind, type) and issubclass(kind, LabelFormat) and kind.recognises(path):
            names.append(entry.name)
    if not names:
        what = "folder" if path.is_dir() else "file"
        raise FileError(f"No label format recognises the {what} {path}: `dense-ctx labels` lists the formats")
    if len(names) > 1:
        raise InputError(f"{path} may be {' or '.join(names)}: name the format")
    return names[0]
