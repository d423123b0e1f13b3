"""Formats of one file an image: a file, or all files of a folder with its subfolders."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from dense_ctx.errors import FileError, InputError, about

from .annotation import Annotation


def write_each(
    path: Path, suffix: str, annotations: Iterator[Annotation], write: Callable[[Path, Annotation], object]
) -> Path:
    """Write one file an image: to `path` itself if it ends in `suffix`, else below it, named as the images.

    Returns:
        The folder of the files.

    Raises:
        InputError: a second annotation for one file: of two images a.jpg and a.png, or `path` is a file.
    """
    single = path.suffix.lower() == suffix
    files: dict[Path, str] = {}
    for annotation in annotations:
        file = path if single else (path / annotation.image).with_suffix(suffix)
        if file in files:
            hint = "give a folder" if single else "rename one"
            raise InputError(f"{files[file]} and {annotation.image} would both be {file}: {hint}")
        files[file] = annotation.image
        with about(annotation.image):
            write(file, annotation)
    return path.parent if single else path


def files_below(path: Path, suffix: str) -> list[Path]:
    """The file itself, or a folder's files with this suffix, in its subfolders too, sorted; hidden ones left out.

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
