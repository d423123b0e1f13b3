"""DAVIS 2016 (one object) and 2017 (several), Perazzi et al. 2016, Pont-Tuset et al. 2017."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from dense_ctx.data.base import Clip, DatasetReader, Layout, VideoSet, choose

from .files import pick, refuse, require
from .pairs import Present, images_in, read_list

_TERMS = "BSD, as the authors' repositories state; the site may state its own"
_OPTIONS = (("resolution", '"480p" (default) or "Full-Resolution" (2016: "1080p")'),)
_EXPECTED = (
    ("JPEGImages/480p/<sequence>/00000.jpg", "frames"),
    ("Annotations/480p/<sequence>/00000.png", "masks, one a frame (test splits: the first frame only)"),
)


class Davis2016(DatasetReader):
    """`davis2016`."""

    layout = Layout(
        name="davis2016",
        title="DAVIS 2016",
        kind="video",
        url="https://davischallenge.org",
        licence=_TERMS,
        splits=("val", "train", "trainval"),
        expected=(
            *_EXPECTED,
            ("ImageSets/2016/<split>.txt", 'sequence names, or "/JPEGImages/... /Annotations/..." lines'),
            ("ImageSets/480p/<split>.txt", "taken when the former is missing (the 2016 archive)"),
        ),
        counts={"val": 20, "train": 30, "trainval": 50},
        options=_OPTIONS,
    )

    def open(self, root: Path, split: str | None = None, resolution: str = "480p") -> VideoSet:
        """DAVIS 2016: every annotated pixel is object 1."""
        return _open(root, self.layout, ("2016", resolution), choose(split, self.layout), resolution, binary=True)


class Davis2017(DatasetReader):
    """`davis2017`."""

    layout = Layout(
        name="davis2017",
        title="DAVIS 2017",
        kind="video",
        url="https://davischallenge.org",
        licence=_TERMS,
        splits=("val", "train", "test-dev", "test-challenge"),
        expected=(*_EXPECTED, ("ImageSets/2017/<split>.txt", "sequence names")),
        counts={"val": 30, "train": 60, "test-dev": 30, "test-challenge": 30},
        options=_OPTIONS,
    )

    def open(self, root: Path, split: str | None = None, resolution: str = "480p") -> VideoSet:
        """DAVIS 2017: objects 1..n of each sequence."""
        return _open(root, self.layout, ("2017",), choose(split, self.layout), resolution, binary=False)


def _open(root: Path, layout: Layout, lists: tuple[str, ...], split: str, resolution: str, binary: bool) -> VideoSet:
    pick(resolution, ("480p", "Full-Resolution", "1080p"), "resolution", layout)
    frames = require(root / "JPEGImages" / resolution, layout)
    masks = require(root / "Annotations" / resolution, layout)
    files = [root / "ImageSets" / folder / f"{split}.txt" for folder in lists]
    source = next((file for file in files if file.is_file()), None)
    if source is None and split == "trainval":
        parts = [root / "ImageSets" / lists[0] / f"{part}.txt" for part in ("train", "val")]
        names = sequences([line for part in parts for line in read_list(require(part, layout, "file"))])
    elif source is None:
        raise refuse(layout, f"{files[0]} is missing")
    else:
        names = sequences(read_list(source))
    folders = [(name, frames / name, masks / name) for name in names]
    # the test splits publish first masks only
    return sequence_set(folders, layout, every=not split.startswith("test"), binary=binary, source=source or split)


def sequences(lines: list[str]) -> list[str]:
    """Sequence names of a list: one per line, or the parent folder of the first path in each line."""
    names = [Path(line.split()[0]).parent.name if "/" in line else line for line in lines]
    return list(dict.fromkeys(names))


def sequence_set(
    folders: Iterable[tuple[str, Path, Path | None]],
    layout: Layout,
    *,
    every: bool = False,
    binary: bool = False,
    source: str | Path = "",
) -> VideoSet:
    """A set of clips with a folder of frames and one of masks each; missing files are listed as problems.

    Args:
        folders: (name, frames, masks) of each clip.
        every, binary: see `sequence`.
        source: where the names are listed, for messages.

    Raises:
        FileError: there is no clip.
    """
    clips, problems = [], []
    for name, frames, masks in folders:
        if not frames.is_dir():
            problems.append(f"{source} names the sequence {name!r}, but {frames} is missing")
            continue
        clip, faults = sequence(name, frames, masks, every, binary)
        problems += faults
        clips += [clip] if clip else []
    return video_set(clips, problems, layout)


def video_set(clips: Sequence[Clip], problems: Sequence[str], layout: Layout, classes: Sequence[str] = ()) -> VideoSet:
    """A set of clips and the problems noticed.

    Raises:
        FileError: there are neither clips nor problems.
    """
    if not clips and not problems:
        raise refuse(layout, "no clips found")
    return VideoSet(tuple(clips), classes=tuple(classes), problems=tuple(problems))


def sequence(
    name: str, frames: Path, masks: Path | None, every: bool, binary: bool = False
) -> tuple[Clip | None, list[str]]:
    """A clip whose frames and masks are in two folders under the same stems, and its problems.

    Args:
        masks: None: the clip has none.
        every: a frame without a mask is a problem; otherwise only a clip without any.
    """
    images = images_in(frames)
    if not images:
        return None, [f"the clip {name!r} has no frames in {frames}"]
    if masks is None:
        return Clip(name, tuple(images), (None,) * len(images), binary=binary), []
    present = Present()
    paths = [masks / f"{image.stem}.png" for image in images]
    missing = [path for path in paths if path not in present]
    problems = []
    if len(missing) == len(images):
        problems.append(f"the clip {name!r} has no masks; expected {paths[0]}")
    elif every and missing:
        problems.append(f"the clip {name!r}: {len(missing)} of {len(images)} masks are missing, {missing[0]} first")
    annotated = tuple(path if path in present else None for path in paths)
    return Clip(name, tuple(images), annotated, binary=binary), problems
