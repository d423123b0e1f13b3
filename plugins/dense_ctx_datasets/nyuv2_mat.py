"""Read NYU Depth v2 from nyu_depth_v2_labeled.mat (MATLAB 7.3, which is HDF5)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dense_ctx.containment import optional_package
from dense_ctx.data.base import IGNORED, ImageSet, Kind, Sample, same_size
from dense_ctx.errors import FileError, InputError

from .geometric import Intrinsics, normals_of
from .geometric_files import metres, read_normals

if TYPE_CHECKING:
    from torch import Tensor


class MatSet(ImageSet):
    """Frames of one split, each read from the file when it is indexed.

    MATLAB arrays are column-major, so h5py returns images as [N, 3, W, H] and maps as [N, W, H]. Samples are named by
    their zero-based index in four digits, as the files of the published normals.
    """

    def __init__(
        self,
        root: Path,
        splits: Path,
        split: str,
        kind: Kind,
        classes: tuple[str, ...],
        raw: bool,
        signs: Sequence[float],
        intrinsics: Intrinsics,
    ) -> None:
        self.kind, self.classes = kind, classes
        self.path = root / "nyu_depth_v2_labeled.mat"
        self._file: Any = None
        self._depths = "rawDepths" if raw else "depths"
        self._signs, self._intrinsics = signs, intrinsics
        folders = [folder for folder in (root / "normals_gt", root) if (folder / "normals").is_dir()]
        self._normals = folders[0] if folders and kind == "normals" else None
        self._table = _table40(root / "classMapping40.mat") if kind == "segmentation" else ()
        count = len(self._open()["images"])
        self._frames = [int(number) - 1 for number in _variable(splits, f"{split}Ndxs").ravel()]
        if not self._frames or min(self._frames) < 0 or max(self._frames) >= count:
            raise FileError(f"{splits} names frames outside the {count} of {self.path}")
        self.problems = []
        if self._normals is not None:
            paths = [self._normals / "normals" / f"{frame:04d}.png" for frame in self._frames]
            self.problems = [f"the normals {path} are missing" for path in paths if not path.is_file()]
        self.names = [f"{frame:04d}" for frame in self._frames]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}  # an open file cannot be pickled; each worker opens its own

    def __getitem__(self, index: int) -> Sample:
        import torch

        frame = self._frames[index]
        image = torch.from_numpy(self._read("images", frame).transpose(0, 2, 1).copy()).float() / 255
        target = self._target(frame)
        same_size(image, target, f"{self.path} frame {frame}")
        return Sample(self.names[index], image, target)

    def _target(self, frame: int) -> Tensor:
        import torch

        if self.kind == "segmentation":
            labels = torch.from_numpy(self._read("labels", frame).T.astype("int64"))
            if int(labels.max()) >= len(self._table):
                raise InputError(
                    f"{self.path} frame {frame} holds the label {int(labels.max())}; classMapping40.mat maps "
                    f"1 to {len(self._table) - 1}"
                )
            return torch.tensor(self._table, dtype=torch.int64)[labels]
        if self._normals is not None:
            mask = self._normals / "masks" / f"{frame:04d}.png"
            path = self._normals / "normals" / f"{frame:04d}.png"
            return read_normals(path, self._signs, mask if mask.is_file() else None)
        depth = self.depth(frame)
        return normals_of(depth, self._intrinsics) if self.kind == "normals" else depth

    def depth(self, frame: int) -> Tensor:
        """Depth [1, H, W] in metres of a frame, by its zero-based index in the file."""
        return metres(self._read(self._depths, frame).T, scale=1.0)

    def verify(self) -> list[str]:
        """Compare stored normals with normals computed from depth, which reveals a wrong sign of an axis."""
        import torch

        if self._normals is None:
            return []
        stored, normals = [], []
        for frame in self._frames[:: max(1, len(self._frames) // 4)][:4]:
            pair = self._target(frame), normals_of(self.depth(frame), self._intrinsics)
            valid = torch.isfinite(pair[0]).all(dim=0) & torch.isfinite(pair[1]).all(dim=0)
            stored.append(pair[0][:, valid])
            normals.append(pair[1][:, valid])
        a, b = torch.cat(stored, dim=1), torch.cat(normals, dim=1)
        size = (a.square().mean(dim=1) * b.square().mean(dim=1)).sqrt()
        cosine = (a * b).mean(dim=1) / size.clamp_min(1e-12)
        return [
            f"{self._normals}: the normals' {axis} is opposite to that of the depth (cosine {float(value):.2f}): "
            "change its sign in the option signs"
            for axis, value, energy in zip("xyz", cosine, size, strict=True)
            if energy > 0.01 and value < -0.2  # an axis with almost no energy has no meaningful sign
        ]

    def _open(self) -> Any:
        if self._file is None:
            h5py = optional_package("h5py", f"{self.path.name}, a MATLAB 7.3 file,", '"dense-ctx[datasets]"')
            try:
                self._file = h5py.File(self.path, "r")
            except OSError as error:
                raise FileError(f"{self.path} is not a MATLAB 7.3 (HDF5) file, or cut short: {error}") from error
        missing = [name for name in ("images", self._depths, "labels") if name not in self._file]
        if missing:
            raise FileError(f"{self.path} has no {', '.join(missing)}; it is not the labelled data set")
        return self._file

    def _read(self, name: str, frame: int) -> Any:
        try:
            return self._open()[name][frame]
        except (OSError, ValueError) as error:
            raise FileError(f"{self.path}: {name} of frame {frame} is damaged: {error}") from error


def _variable(path: Path, name: str) -> Any:
    """A variable of a MATLAB file before version 7.3."""
    import scipy.io

    try:
        return scipy.io.loadmat(path)[name]
    except KeyError:
        raise FileError(f"{path} has no variable {name}") from None
    except Exception as error:  # for a damaged file SciPy raises errors of zlib, struct and its own
        raise FileError(f"{path} is not a MATLAB file SciPy can read: {error}") from error


def _table40(path: Path) -> tuple[int, ...]:
    """Class of each raw label, label 0 ignored."""
    if not path.is_file():
        raise FileError(f"{path} is missing; it maps the 894 labels to 40 classes (Gupta et al. 2013)")
    mapped = [int(value) for value in _variable(path, "mapClass").ravel()]
    if min(mapped) < 0 or max(mapped) > 40:
        raise FileError(f"{path} maps to {min(mapped)}..{max(mapped)}; expected 1 to 40")
    return (IGNORED, *(value - 1 if value else IGNORED for value in mapped))
