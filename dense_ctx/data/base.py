"""Data set interfaces: images with dense targets, or clips with masks, and the folder layout they are read from.

Importing this module loads no torch; reading a sample does.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ..errors import DenseCtxError, InputError, PluginError, cause_of

if TYPE_CHECKING:
    from torch import Tensor

Kind = Literal["segmentation", "depth", "normals", "instances", "video"]

IGNORED = -1  # in every segmentation target, independent of the value in the files


@dataclass(frozen=True)
class Sample:
    """One annotated image.

    name: unique in its set, valid as a file name.
    image: float32 [3, H, W] in [0, 1].
    target: segmentation and instances: int64 [H, W], -1 ignored (instances: 0 background, 1..n);
        depth: float32 [1, H, W] in metres, NaN where unknown;
        normals: float32 [3, H, W], unit length, x right, y down, z into the scene, NaN where unknown; normals
        point towards the camera, so a wall seen head-on is (0, 0, -1).
    """

    name: str
    image: Tensor
    target: Tensor


class ImageSet(ABC):
    """Annotated images; indexing reads one of them from disk.

    Attributes:
        kind: what the targets are.
        classes: names of the classes, in the order of their ids; () if the targets are not classes.
        names: of the samples, in a fixed order.
        problems: missing and mismatched files that listing noticed; `open_set` refuses a set that has any.
    """

    kind: Kind = "segmentation"
    classes: tuple[str, ...] = ()
    names: Sequence[str] = ()
    problems: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.names)

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """Read one sample.

        Raises:
            FileError: a file is missing or damaged.
            InputError: labels outside the classes, or of another size than the image.
            IndexError: no such sample.
        """

    def verify(self) -> list[str]:
        """Check what single samples cannot show, such as consistency between files; returns the problems."""
        return []


def read_sample(images: ImageSet, index: int, title: str) -> Sample:
    """`images[index]`, for an index below the length.

    Args:
        title: name of the data set, for errors.

    Raises:
        FileError, InputError: as `ImageSet.__getitem__` raises them.
        PluginError: any other failure of the data set; the message names it, the sample and the cause.
    """
    try:
        sample = images[index]
        if not isinstance(sample, Sample):
            raise TypeError(f"it gave a {type(sample).__name__}, not a Sample")
        if not math.isfinite(float(sample.image.sum())):
            raise InputError(f"{title}: the image of sample {sample.name!r} holds NaN or infinity")
        if sample.target.is_floating_point() and not math.isfinite(float(sample.target.nansum())):
            raise InputError(f"{title}: the annotation of sample {sample.name!r} holds infinity; unknown is NaN")
        if images.kind == "segmentation" and images.classes:
            low, high, last = *(int(label) for label in sample.target.aminmax()), len(images.classes) - 1
            if low < IGNORED or high > last:
                labels = f"{title}: sample {sample.name!r} has labels {low} to {high}"
                raise InputError(f"{labels}; its classes are 0 to {last}, and {IGNORED} is ignored")
    except DenseCtxError:
        raise
    except Exception as error:
        what = f"data set {title!r}: sample {images.names[index]!r}"
        raise PluginError(f"{what} cannot be read: {cause_of(error)}") from error
    return sample


@dataclass(frozen=True)
class Clip:
    """A video: image files in order (or one video file), with a mask file or None for each frame.

    objects: ids annotated in the first mask are tracked; binary: any value above 0 is object 1 (DAVIS-2016).
    Read a mask with `read_mask(path, clip.binary)`.
    """

    name: str
    frames: tuple[Path, ...] = ()
    masks: tuple[Path | None, ...] = ()
    video: Path | None = None
    binary: bool = False


@dataclass(frozen=True)
class VideoSet:
    """Clips of a data set, in a fixed order; problems: as those of `ImageSet`."""

    clips: tuple[Clip, ...]
    kind: Kind = "video"
    classes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.clips)


@dataclass(frozen=True)
class Layout:
    """The folder layout of a data set, for `dense-ctx datasets` and for error messages.

    name, title: "davis2017", "DAVIS 2017 ...".
    url, licence: where to download it, and its licence; this library downloads no data set.
    splits: valid values of `split`, the default first.
    expected: (path pattern under the root, what it holds) rows.
    counts: published number of samples (or clips) per split.
    options: (name of a keyword of `open_set`, what it does) rows.
    own_splits: a root may have further splits, which the reader looks for.
    """

    name: str
    title: str
    kind: Kind
    url: str
    licence: str
    splits: tuple[str, ...]
    expected: tuple[tuple[str, str], ...]
    counts: dict[str, int] = field(default_factory=dict)
    options: tuple[tuple[str, str], ...] = ()
    own_splits: bool = False

    def describe(self) -> str:
        """Format the expected layout as lines of text."""
        width = max(len(path) for path, _ in self.expected)
        return "\n".join(f"  {path:<{width}}  {what}".rstrip() for path, what in self.expected)


class DatasetReader(ABC):
    """Reads a data set in one folder layout; downloads nothing.

    Attributes set by the subclass:
        layout: the files expected under the root, and where to download the data set.
    """

    layout: ClassVar[Layout]

    @abstractmethod
    def open(self, root: Path, split: str | None = None, **options: Any) -> ImageSet | VideoSet:
        """List the samples under `root`; each is read when it is indexed.

        Args:
            split: one of `layout.splits`; None: the first.
            options: the keywords in the subclass' signature.

        Raises:
            FileError: the root does not have this layout. Single missing files are in the set's `problems`.
            InputError: no such split, or an invalid value of an option.
            MissingDependencyError: the files need a package that is not installed.
        """


def choose(split: str | None, layout: Layout) -> str:
    """The split, or the default for None; raises InputError if the data set has no such split."""
    if split is None:
        return layout.splits[0]
    if split not in layout.splits and not layout.own_splits:
        raise InputError(f"{layout.name} has no split {split!r}; it has {', '.join(layout.splits)}")
    return split


def by_number(path: Path) -> tuple[str, str]:
    """A key by which frame2 comes before frame10; of frame2 and frame02, which are one number, the name decides."""
    return re.sub(r"\d+", lambda digits: digits[0].zfill(20), path.name), path.name


def read_mask(path: Path, binary: bool = False) -> Tensor:
    """Read the object ids of a video frame as int64 [H, W], 0 background.

    Args:
        binary: every value above 0 is object 1; grey RGB pictures are accepted, as some DAVIS-2016 masks are.

    Raises:
        FileError: missing or damaged.
        InputError: a coloured picture, which has no object ids.
    """
    from ..images import load_mask, open_image

    image = open_image(path)
    if binary and image.mode in ("RGB", "RGBA"):
        bands = image.split()
        if bands[0].tobytes() == bands[1].tobytes() == bands[2].tobytes():
            image = bands[0]
    if image.mode in ("RGB", "RGBA"):
        raise InputError(f"{path} is a {image.mode} picture; expected object ids: palette (P), 8-bit (L) or 16-bit")
    labels = load_mask(image)
    return (labels > 0).long() if binary else labels


def same_size(image: Tensor, target: Tensor, name: str) -> None:
    """Raise InputError if the size of a target differs from its image's."""
    if image.shape[-2:] != target.shape[-2:]:
        raise InputError(
            f"{name}: the image is {image.shape[-2]} x {image.shape[-1]} (H x W), its annotation "
            f"{target.shape[-2]} x {target.shape[-1]}"
        )


class Subset(ImageSet):
    """A subset of a data set, by indices, in their order."""

    def __init__(self, images: ImageSet, indices: Sequence[int]) -> None:
        self.images, self.indices = images, list(indices)
        self.kind, self.classes = images.kind, images.classes
        self.names = [images.names[index] for index in self.indices]

    def __getitem__(self, index: int) -> Sample:
        return self.images[self.indices[index]]
