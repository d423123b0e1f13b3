"""One disk cache for maps and targets: a folder of safetensors files (shards), all made with the same settings.

A shard appears under its name only when complete. Beside each tensor KEY it holds "KEY.crc32", a checksum for each
index of the first axis, so that damage is detected on reading, and one row can be read without the rest of the file;
its header has one of the other strings in it.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import FileError
from ..files import new_file, write_tensors
from ..persistence.identity import Identity
from ..persistence.tensors import Spec, misfits

if TYPE_CHECKING:
    from typing_extensions import Self

CHECKSUM = ".crc32"
_OPEN = 64  # shards a reader keeps open


class Shard:
    """A safetensors file, mapped into memory.

    Attributes:
        specs: dtype and shape of each tensor; checksums are left out.
        metadata: the strings in its header.

    Raises:
        FileError: missing or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = cast(Any, safe_open)(str(path), framework="pt")
            keys = set(self._file.keys())
            self._slices = {key: self._file.get_slice(key) for key in sorted(keys) if not key.endswith(CHECKSUM)}
            self._checksums = {key: self._file.get_tensor(key + CHECKSUM).tolist() for key in self._slices}
            self.specs = {key: (part[:0].dtype, tuple(part.get_shape())) for key, part in self._slices.items()}
            self.metadata: dict[str, str] = self._file.metadata() or {}
            if self.metadata.pop(CHECKSUM, None) != words_checksum(self.metadata):
                raise ValueError("the checksum of its header differs")
            if alone := sorted(keys - set(self._slices) - {key + CHECKSUM for key in self._slices}):
                raise ValueError(f"left over {', '.join(alone)[:200]}")
        except (SafetensorError, OSError, ValueError, IndexError) as error:
            raise FileError(
                f"{path} is missing or damaged ({type(error).__name__}: {error}); remove it and make it again"
            ) from error

    def require(self, specs: Mapping[str, Spec]) -> Self:
        """Itself; raises FileError for tensors that are missing, left over, or of another shape or dtype."""
        if faults := misfits(self.specs, specs):
            raise FileError(f"{self.path} is of another kind or damaged ({'; '.join(faults):.600}); make it again")
        return self

    def row(self, key: str, index: int) -> Tensor:
        """One index of a tensor's first axis; only its bytes are read.

        Raises:
            FileError: damaged, or it has no tensor of this name, or no such index.
        """
        values = self._slice(key)[index : index + 1]
        if not len(values):
            raise FileError(f"{self.path} has {self.specs[key][1][0]} rows of {key!r}, {index} is asked for")
        return self._verified(key, values, index)[0]

    def tensor(self, key: str) -> Tensor:
        """A whole tensor; raises FileError where it is damaged, or no tensor has this name."""
        return self._verified(key, self._slice(key)[:], 0)

    def _slice(self, key: str) -> Any:
        if key not in self._slices:
            names = ", ".join(self._slices)
            raise FileError(f"{self.path} holds no tensor {key!r} (it has {names}); remove it and make it again")
        return self._slices[key]

    def _verified(self, key: str, values: Tensor, start: int) -> Tensor:
        if checksums(values) != self._checksums[key][start : start + len(values)]:
            raise FileError(f"{self.path} is damaged (the checksum of {key!r} differs); remove it and make it again")
        return values


def checksums(values: Tensor) -> list[int]:
    """CRC-32 of type, shape and bytes at each index of the first axis."""
    start = zlib.crc32(f"{values.dtype} {list(values.shape[1:])}".encode())
    return [zlib.crc32(row.reshape(-1).view(torch.uint8).numpy(), start) for row in values.cpu().contiguous()]


def words_checksum(metadata: Mapping[str, str]) -> str:
    """CRC-32 of the strings in a header."""
    return str(zlib.crc32(json.dumps(dict(metadata), sort_keys=True).encode()))


def write_shard(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, *, sync: bool = True
) -> int:
    """Write tensors, each of at least one axis, and their checksums, atomically; returns the file's bytes.

    Args:
        sync: wait for the disk; otherwise a loss of power may leave a damaged file.

    Raises:
        FileError: it cannot be written.
    """
    content = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    sums = {key + CHECKSUM: torch.tensor(checksums(value), dtype=torch.int64) for key, value in content.items()}
    then = ". Finished files are kept; run it again"
    with new_file(path, then=then, sync=sync) as partial:
        header = dict(metadata or {})
        write_tensors(partial, {**content, **sums}, {**header, CHECKSUM: words_checksum(header)})
        return partial.stat().st_size


def disk_space(folder: Path, needed: int, what: str, advice: str) -> int:
    """Free bytes of the disk that holds `folder`, which need not exist yet.

    Raises:
        FileError: fewer than `needed`.
    """
    existing = folder.resolve()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise FileError(
            f"The {what} needs about {needed / 1e9:.2f} GB more in {folder}, where {free / 1e9:.2f} GB are free: "
            f"{advice}"
        )
    return free


S = TypeVar("S", bound=Shard)


class DiskCache(Generic[S]):
    """A folder of shards. Cheap to copy to workers: files are opened where they are read.

    Args:
        identity: the folder's file of settings.
        settings: everything that decides the values.
        shard: opens a file.
    """

    def __init__(self, identity: Identity, settings: Mapping[str, Any], shard: Callable[[Path], S]) -> None:
        self.folder = identity.path.parent
        self.identity, self.settings, self._shard = identity, dict(settings), shard
        self._open: OrderedDict[str, S] = OrderedDict()

    def check(self) -> dict[str, Any] | None:
        """The stored settings; None where there are none yet. Errors as `Identity.check`."""
        return self.identity.check(self.settings)

    def claim(self, notes: Mapping[str, Any] | None = None) -> None:
        """Write the settings where there are none. Arguments and errors as `Identity.claim`."""
        self.identity.claim(self.settings, notes)

    def path(self, name: str) -> Path:
        """The file of the shard `name`; a "/" in it is a folder."""
        return self.folder / f"{name}.safetensors"

    def complete(self, name: str, specs: Mapping[str, Spec], fits: Callable[[S], bool] = lambda shard: True) -> bool:
        """Whether a shard can be opened, has the tensors `specs`, and `fits` accepts it; values are not verified."""
        try:
            return fits(self._shard(self.path(name)).require(specs))
        except FileError:
            return False

    def shard(self, name: str) -> S:
        """A shard, opened or still open; raises FileError where it is missing or damaged."""
        shard = self._open.pop(name, None) or self._shard(self.path(name))
        self._open[name] = shard
        if len(self._open) > _OPEN:
            self._open.popitem(last=False)
        return shard

    def write(
        self, name: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, *, sync: bool = True
    ) -> int:
        """Write a shard; arguments, value and errors as `write_shard`."""
        self._open.pop(name, None)
        return write_shard(self.path(name), tensors, metadata, sync=sync)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}  # mapped files cannot be pickled
