"""Helpers of the readers: check files and option values, read images and label maps.

Importing this module loads no torch; reading a file does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dense_ctx.data.base import IGNORED, Layout
from dense_ctx.errors import FileError, InputError

if TYPE_CHECKING:
    from torch import Tensor


def require(path: Path, layout: Layout, kind: Literal["file", "folder"] = "folder") -> Path:
    """Return `path` if it exists.

    Raises:
        FileError: it is missing or of the other kind; the message shows the expected layout.
    """
    if (path.is_dir() if kind == "folder" else path.is_file()) is False:
        raise refuse(layout, f"{path} is missing" if not path.exists() else f"{path} is not a {kind}")
    return path


def refuse(layout: Layout, problem: str) -> FileError:
    """The error for a root without this layout: `problem`, the expected layout, and the download URL."""
    return FileError(
        f"{layout.title}: {problem}. Expected under the root:\n{layout.describe()}\nGet it from {layout.url}"
    )


def inside(root: Path, *folders: str) -> Path:
    """The first existing subfolder of `root`, or `root` itself: archives differ in their top folders."""
    return next((root / folder for folder in folders if (root / folder).is_dir()), root)


def pick(value: str, allowed: Sequence[str], option: str, layout: Layout) -> str:
    """Validate an option with a few allowed values.

    Raises:
        InputError: another value.
    """
    if value not in allowed:
        raise InputError(f"{layout.name}: {option} must be one of {', '.join(allowed)}; got {value!r}")
    return value


def comma_separated(text: str) -> tuple[str, ...]:
    """Split class names at commas."""
    return tuple(text.split(","))


def read_image(path: Path) -> Tensor:
    """Read an image file as float32 [3, H, W] in [0, 1]."""
    from dense_ctx.images import load

    return load(path)


def read_labels(
    path: Path, classes: int, ignore: Sequence[int] = (255,), table: Sequence[int] | Tensor | None = None
) -> Tensor:
    """Read a label file as int64 [H, W]: ids 0..classes-1, -1 where ignored.

    Args:
        ignore: values of the file that mean "not annotated".
        table: maps the file's values 0..len(table)-1 to ids (or -1), after `ignore`.

    Raises:
        FileError: missing or damaged.
        InputError: an RGB picture, or a value that is neither a class (an entry of the table) nor ignored.
    """
    import torch

    from dense_ctx.images import load_mask

    values = load_mask(path)
    count = classes if table is None else len(table)
    void = torch.isin(values, torch.tensor(list(ignore), dtype=torch.int64))
    beyond = (values < 0) | (values >= count)
    bad = values[beyond & ~void]
    if len(bad):
        ids = torch.unique(bad)
        examples = ", ".join(str(int(value)) for value in ids[:5]) + (", ..." if len(ids) > 5 else "")
        raise InputError(
            f"{path} holds the values {examples} in {len(bad)} pixels; expected 0 to {count - 1}"
            + (f", and {', '.join(map(str, ignore))} for pixels that are not annotated" if ignore else "")
        )
    inside = values.clamp(0, count - 1)
    labels = inside if table is None else torch.as_tensor(table, dtype=torch.int64)[inside]
    return torch.where(void, IGNORED, labels)
