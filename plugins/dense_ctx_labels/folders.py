"""Formats with one file per image: a file, or all files of a folder and its subfolders."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from dense_ctx.errors import FileError, InputError, about

from .annotation import Annotation


def write_each(
    path: Path, suffix: str, annotations: Iterator[Annotation], write: Callable[[Path, Annotation], object]
) -> Path:
    """Write one file per image: `path` itself if it ends in `suffix`, otherwise files in it, named as the images.

    Returns:
        The folder of the files.

    Raises:
        InputError: two annotations have the same file, such as those of a.jpg and a.png.
    """
    single = path.suffix.lower() == suffix
    files: dict[Path, str] = {}
    for annotation in annotations:
        file = path if single else (path / annotation.image).with_suffix(suffix)
        if file in files:
            hint = "give a folder" if single else "rename one"
            raise InputError(f"{files[file]} and {annotation.image} would both be written to {file}: {hint}")
        files[file] = annotation.image
        with about(annotation.image):
            write(file, annotation)
    return path.parent if single else path


def files_below(path: Path, suffix: str) -> list[Path]:
    """`path` if it is a file; otherwise all visible files with this suffix in it and its subfolders, sorted.

    Raises:
        FileError: there is none.
    """
    if not path.is_dir():
        return [path]
    candidates = (file for file in path.rglob(f"*{suffix}") if file.is_file())
    files = sorted(
        file for file in candidates if not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
    if not files:
        raise FileError(f"The folder {path} holds no {suffix} file")
    return files
