"""Open a registered data set by name."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any, cast

from ..errors import FileError, InputError
from ..gateway import gateway
from ..plugins import blamed, registry
from .base import DatasetReader, ImageSet, Layout, VideoSet, choose


def names() -> list[str]:
    """Names of all data sets."""
    return registry().names("dataset")


@gateway
def layout(name: str) -> Layout:
    """A data set's folder layout, and where to download it.

    Raises:
        UnknownNameError: no such data set; with the closest names.
    """
    return cast(Layout, registry().create("dataset", name).layout)


def published(name: str, split: str | None) -> int | None:
    """How many samples a split has as published; None where no number is known."""
    return layout(name).counts.get(split or "") if name in names() else None


@gateway
def open_set(name: str, root: str | os.PathLike[str], split: str | None = None, **options: Any) -> ImageSet | VideoSet:
    """Open a data set that lies under `root` in its official layout.

    Args:
        split: one of `layout(name).splits`; default the first.
        options: of this data set, see `layout(name).options`.

    Raises:
        UnknownNameError: no such data set.
        FileError: the root does not have the layout, or files are missing; the message names the first ones.
        InputError: no such split or option.
        MissingDependencyError: reading the files needs a package that is not installed.
    """
    dataset = list_set(name, root, split, **options)
    if dataset.problems:
        more = f"\n  ... and {len(dataset.problems) - 5} more" if len(dataset.problems) > 5 else ""
        problems = "\n  ".join(dataset.problems[:5])
        raise FileError(
            f"{name} under {root} is incomplete:\n  {problems}{more}\n"
            f"`dense-ctx datasets {name} {root}` lists everything that is wrong"
        )
    return dataset


@gateway
def list_set(name: str, root: str | os.PathLike[str], split: str | None = None, **options: Any) -> ImageSet | VideoSet:
    """As `open_set`, but missing files stay in `.problems` and the rest can be read."""
    with blamed("dataset", name):
        return list_with(registry().create("dataset", name), root, split, **options)


def list_with(
    reader: DatasetReader, root: str | os.PathLike[str], split: str | None = None, **options: Any
) -> ImageSet | VideoSet:
    """As `list_set`, with a reader that need not be registered."""
    expected = reader.layout
    parameters = inspect.signature(reader.open).parameters.values()
    allowed = [p.name for p in parameters if p.name not in ("root", "split") and p.kind is not p.VAR_KEYWORD]
    unknown = [key for key in options if key not in allowed]
    if unknown:
        raise InputError(f"{expected.name} has no option {unknown[0]!r}; it has {', '.join(allowed) or 'none'}")
    return reader.open(Path(root), choose(split, expected) if split is not None else None, **options)
