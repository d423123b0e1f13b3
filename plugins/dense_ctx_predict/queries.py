"""Expand the paths of --query into images and clips, and name their outputs."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dense_ctx.data.video import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from dense_ctx.errors import FileError


@dataclass(frozen=True)
class Query:
    """An image, or a clip (video file or folder of frames).

    name: of its outputs, without a suffix of their own, such as "day1/0003". file: the path below the folder that was
    given, "day1/0003.jpg".
    """

    path: Path
    name: str
    clip: bool
    file: str


def expand(paths: Sequence[Path], *, frames: bool = False, skip: Collection[Path] = ()) -> list[Query]:
    """List the images and videos of `paths`; those of a folder are sorted by name.

    A folder is searched recursively. Hidden files, symbolic links to folders and files of other types are skipped. An
    output has its file's name; two files with the same stem keep their suffix.

    Args:
        frames: treat each folder as one clip, whose images are the frames.
        skip: files and folders to skip.

    Raises:
        FileError: a path does not exist, or a folder holds neither images nor videos.
    """
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise FileError(f"No image, video or folder at {', '.join(missing)}")
    skipped, several = {os.path.realpath(path) for path in skip}, sum(path.is_dir() for path in paths) > 1
    files: list[tuple[Path, PurePosixPath, bool]] = []  # path, output path with suffix, whether it is a clip
    for path in paths:
        suffix = path.suffix.lower()
        if not path.is_dir() or frames:
            files.append((path, PurePosixPath(path.resolve().name), path.is_dir() or suffix in VIDEO_SUFFIXES))
            continue
        inside = list(_files(path, skipped))
        if not inside:
            kinds = ", ".join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))
            raise FileError(f"The folder {path} and its subfolders hold no image or video to predict ({kinds})")
        for file in inside:
            relative = PurePosixPath(file.relative_to(path).as_posix())
            output = PurePosixPath(path.resolve().name) / relative if several else relative
            files.append((file, output, file.suffix.lower() in VIDEO_SUFFIXES))
    stems = Counter(output.with_suffix("") for _, output, _ in files)
    queries: list[Query] = []
    names: set[str] = set()
    for path, output, clip in files:
        stem = output.with_suffix("")
        name = plain = str(stem if stems[stem] == 1 else output)
        number = 1
        while name in names:
            number += 1
            name = f"{plain}-{number}"
        names.add(name)
        queries.append(Query(path, name, clip, str(output)))
    return queries


def _files(folder: Path, skipped: Collection[str]) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(n for n in folders if not n.startswith(".") and _place(parent, n) not in skipped)
        for name in sorted(names):
            file = Path(parent, name)
            supported = file.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES
            if supported and not name.startswith(".") and _place(parent, name) not in skipped:
                yield file


def _place(parent: str, name: str) -> str:
    """Where a file is, behind links; of a link to itself, which `Path.resolve` refuses, the link."""
    return os.path.realpath(os.path.join(parent, name))
