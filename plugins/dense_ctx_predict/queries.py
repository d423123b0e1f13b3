"""What is to be predicted: images, folders of them at any depth, videos, and the names their outputs get."""

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
    """An image or a clip. name: of its outputs, without suffix, with subfolders ("day1/0003"). clip: a video."""

    path: Path
    name: str
    clip: bool


def expand(paths: Sequence[Path], *, frames: bool = False, skip: Collection[Path] = ()) -> list[Query]:
    """The images and videos that paths stand for, in order of their names.

    A folder stands for the images and videos in it and below it. Hidden files, links to folders and files of other
    kinds are left out. Names are those of the files; of two equal ones both keep their suffix.

    Args:
        frames: a folder is one clip, its images are the frames.
        skip: files and folders that are left out.

    Raises:
        FileError: nothing at a path, or a folder with neither images nor videos.
    """
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise FileError(f"No image, video or folder at {', '.join(missing)}")
    skipped, several = {path.resolve() for path in skip}, sum(path.is_dir() for path in paths) > 1
    found: list[tuple[Path, PurePosixPath, bool]] = []
    for path in paths:
        suffix = path.suffix.lower()
        if not path.is_dir() or frames:
            found.append((path, PurePosixPath(path.resolve().name), path.is_dir() or suffix in VIDEO_SUFFIXES))
            continue
        inside = list(_files(path, skipped))
        if not inside:
            kinds = ", ".join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))
            raise FileError(f"The folder {path} holds no image or video to predict, nor does one below it ({kinds})")
        for file in inside:
            name = PurePosixPath(file.relative_to(path).as_posix())
            place = PurePosixPath(path.resolve().name) / name if several else name
            found.append((file, place, file.suffix.lower() in VIDEO_SUFFIXES))
    stems = Counter(str(place.with_suffix("")) for _, place, _ in found)
    queries, used = [], set()
    for path, place, clip in found:
        name = plain = str(place.with_suffix("")) if stems[str(place.with_suffix(""))] == 1 else str(place)
        number = 1
        while name in used:
            number += 1
            name = f"{plain}-{number}"
        used.add(name)
        queries.append(Query(path, name, clip))
    return queries


def _files(folder: Path, skipped: Collection[Path]) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        here = Path(place)
        folders[:] = sorted(n for n in folders if not n.startswith(".") and (here / n).resolve() not in skipped)
        for name in sorted(names):
            file = here / name
            known = file.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES
            if known and not name.startswith(".") and file.resolve() not in skipped:
                yield file
