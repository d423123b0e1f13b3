"""Image sets with one annotation file per image, the layout of most data sets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dense_ctx.data.base import ImageSet, Kind, Layout, Sample, by_number, same_size
from dense_ctx.errors import FileError, InputError
from dense_ctx.files import MAX_JSON, read_text

from .files import read_image, refuse

if TYPE_CHECKING:
    from torch import Tensor

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm")  # as dense_ctx.data.video reads


@dataclass(frozen=True)
class Pair:
    """An image file and its annotation file."""

    name: str
    image: Path
    target: Path


class PairSet(ImageSet):
    """Images with one annotation file each.

    Args:
        pairs: candidates; one whose annotation or image is missing is listed as a problem.
        read: reads the target, [H, W] or [C, H, W], from the annotation's path.
        layout: for the error if there is no candidate.

    Raises:
        FileError: there is no candidate.
    """

    def __init__(
        self,
        pairs: Iterable[Pair],
        read: Callable[[Path], Tensor],
        layout: Layout,
        kind: Kind = "segmentation",
        classes: tuple[str, ...] = (),
        problems: Sequence[str] = (),
    ) -> None:
        self.read, self.kind, self.classes = read, kind, classes
        self.pairs: list[Pair] = []
        self.problems = list(problems)
        present = Present()
        for pair in pairs:
            if pair.image not in present:
                self.problems.append(f"{pair.name} has no image; expected {pair.image}")
            elif pair.target not in present:
                self.problems.append(f"{pair.image} has no annotation; expected {pair.target}")
            else:
                self.pairs.append(pair)
        self.names = [pair.name for pair in self.pairs]
        if not self.pairs and not self.problems:
            raise refuse(layout, "no images found")

    def __getitem__(self, index: int) -> Sample:
        pair = self.pairs[index]
        image = read_image(pair.image)
        try:
            target = self.read(pair.target)
        except (InputError, FileError) as error:
            if str(pair.target) in str(error):
                raise
            raise type(error)(f"{pair.target}: {error}") from error
        same_size(image, target, str(pair.target))
        return Sample(pair.name, image, target)


class Present:
    """Fast `path in present` for many paths: lists each folder once instead of querying every file."""

    def __init__(self) -> None:
        self._folders: dict[Path, frozenset[str]] = {}

    def __contains__(self, path: Path) -> bool:
        if path.parent not in self._folders:
            files = path.parent.iterdir() if path.parent.is_dir() else iter(())
            self._folders[path.parent] = frozenset(file.name for file in files)
        return path.name in self._folders[path.parent]


def images_in(folder: Path, suffix: str = "") -> list[Path]:
    """Image files of a folder whose names end in `suffix`, sorted by name (2 before 10), without hidden files."""
    if not folder.is_dir():
        return []
    images = (
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and path.name.endswith(suffix) and not path.name.startswith(".")
    )
    return sorted(images, key=by_number)


def same_stem(images: Sequence[Path], targets: Path, suffix: str = ".png") -> list[Pair]:
    """Pair each IMAGE.jpg with TARGETS/IMAGE.png."""
    return [Pair(path.stem, path, targets / f"{path.stem}{suffix}") for path in images]


def first_folder(candidates: Sequence[Path], layout: Layout) -> Path:
    """The first candidate that exists, for archives that are unpacked to different places.

    Raises:
        FileError: none of them exists.
    """
    for path in candidates:
        if path.is_dir():
            return path
    raise refuse(layout, f"{' and '.join(str(path) for path in candidates)} are missing")


def read_list(path: Path) -> list[str]:
    """Read the non-blank lines of a text file.

    Raises:
        FileError: missing, not text, or empty.
    """
    lines = [line for line in map(str.strip, read_text(path, MAX_JSON).splitlines()) if line]
    if not lines:
        raise FileError(f"The list {path} is empty; expected one name a line")
    return lines
