"""auto: the format that a file looks like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dense_ctx import registry
from dense_ctx.errors import FileError, InputError, PluginError
from dense_ctx.plugins import blamed

from .annotation import AnnotationSet
from .base import LabelFormat, Source


class Auto(LabelFormat):
    """`auto`: reads what any registered format recognises as its own.

    Args:
        options: of that format.
    """

    title = "whichever of these it is"
    suffix = ""
    writes = False

    def __init__(self, **options: Any) -> None:
        self.options = options

    def load(self, source: Source) -> AnnotationSet:
        """Read by the only format that recognises the path."""
        name = recognised(source.path)
        part: LabelFormat = registry().create("label-format", name, **self.options)
        with blamed("label-format", name):
            return part.load(source)


def recognised(path: Path) -> str:
    """The name of the only format that recognises a file or folder.

    Raises:
        FileError: none does. InputError: several do.
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
        raise FileError(f"The {what} {path} is of no label format that is known: `dense-ctx labels` lists them")
    if len(names) > 1:
        raise InputError(f"{path} may be {' or '.join(names)}: say which")
    return names[0]
