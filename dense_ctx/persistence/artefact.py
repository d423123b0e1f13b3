"""Atomically written folders with the sha256 of each file: models, fitted contexts, training states.

A folder is written under a temporary name, synced and swapped in under a lock, so that a kill leaves the old one or the
new one. A link stays a link: its target is replaced. Tensors: `dense_ctx.persistence.tensors`.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError

from ..errors import CheckpointError, FileError
from ..files import MAX_TEXT, file_digest, read_json, regular_size, sync_folder, tensor_shapes, write_json
from ..partial_files import unique
from .identity import in_use
from .lock import locked

MANIFEST = "manifest.json"
_MAX_JSON = 16 << 20  # bytes
_READS = 100  # attempts to read a folder while it is being replaced

T = TypeVar("T")
P = TypeVar("P")


@dataclass(frozen=True)
class Artefact:
    """A kind of folder.

    what: its name in messages. files: those in its manifest; the first one identifies a folder of this kind. One may be
    the manifest of an inner folder, an artefact itself ("model/manifest.json"), which covers that folder's files.
    Other files in the folder are the user's: they are kept when it is saved again, and are not verified.
    """

    what: str
    files: tuple[str, ...]

    def write(self, folder: Path, fill: Callable[[Path], None]) -> None:
        """Write a folder, or replace one.

        Args:
            fill: writes `files` to a folder.

        Raises:
            FileError: `folder` holds something else, another process is writing it, or it cannot be written. The
                earlier content is unchanged.
        """
        target = Path(os.path.realpath(folder))
        partial = _partial(target)
        with locked(target, f"The {self.what} {folder}"):  # which also removes what killed writers left
            _mend(target)
            if in_use(target, self.files[0]):
                raise FileError(f"{folder} exists and is not a {self.what} folder; choose another or remove it")
            swapped = False
            try:
                partial.mkdir()
                self._copy_others(target, partial)
                fill(partial)
                digests = {name: file_digest(partial / name) for name in self.files}
                write_json(partial / MANIFEST, {"sha256": digests})
                sync_folder(partial, inside=True)
                if target.exists():
                    target.replace(_previous(target))
                partial.replace(target)
                swapped = True
                sync_folder(target.parent)
            except (OSError, SafetensorError) as error:
                with suppress(OSError):
                    if swapped:  # but perhaps not synced: the old one is restored below
                        target.replace(partial)
                raise FileError(
                    f"Cannot write the {self.what} {folder}: {error}. What was there is unchanged"
                ) from error
            finally:
                with suppress(OSError):
                    _mend(target)
                shutil.rmtree(partial, ignore_errors=True)

    def _copy_others(self, target: Path, partial: Path) -> None:
        own = {*(Path(name).parts[0] for name in self.files), MANIFEST}
        for item in target.iterdir() if target.exists() else ():
            if item.name not in own:
                if item.is_dir() and not item.is_symlink():
                    shutil.copytree(item, partial / item.name, symlinks=True)
                else:
                    shutil.copy2(item, partial / item.name, follow_symlinks=False)

    def read(self, folder: Path, plan: Callable[[Path], P], load: Callable[[Path], T]) -> tuple[P, T]:
        """Read a verified folder by `plan` and `load`; consistent even if another process replaces it meanwhile.

        Args:
            plan: reads the first file, before the others are verified, and may refuse their size.
            load: reads the others.

        Raises:
            FileError: a file is missing, or not a regular file.
            CheckpointError: damaged. Errors of `plan` and `load`.
        """
        for attempt in range(_READS):
            present(folder)
            before = _stamp(folder)
            try:
                self._check(folder, self.files[:1])
                first = plan(folder)
                self._check(folder, self.files[1:])
                result = first, load(folder)
            except (CheckpointError, FileError, OSError):
                # while it is swapped, the folder is missing for an instant, which ends before the old one goes
                away = not before and os.path.isdir(_previous(Path(os.path.realpath(folder))))
                if not away and before == _stamp(folder):
                    raise
            else:
                if before == _stamp(folder):
                    return result
            time.sleep(0.001 * attempt)
        raise FileError(f"The {self.what} {folder} is replaced again and again while it is read; stop its writer")

    def _check(self, folder: Path, names: Sequence[str]) -> None:
        missing = [name for name in (*self.files, MANIFEST) if not (folder / name).exists()]
        if missing:
            raise FileError(f"{folder} has no {missing[0]}: is it a {self.what} of dense_ctx?{_hint(folder)}")
        listed = read_object(folder / MANIFEST).get("sha256")
        if not isinstance(listed, Mapping) or set(listed) != set(self.files):
            raise CheckpointError(f"{folder / MANIFEST} does not list {' and '.join(self.files)}, and nothing else")
        for name in names:
            regular_size(folder / name, _MAX_JSON if name.endswith(".json") else None)
            try:
                if name.endswith(".safetensors"):
                    tensor_shapes(folder / name)  # it says how long the file is: a hole of 20 GB is not hashed
                digest = file_digest(folder / name)
            except OSError as error:
                raise FileError(f"Cannot read {folder / name}: {error}") from None
            except ValueError as error:
                raise CheckpointError(f"{folder / name} is damaged: {error}. Get or make it again") from None
            if digest != listed[name]:
                raise CheckpointError(
                    f"{folder / name} is damaged: its sha256 is not the one in {MANIFEST}. Get or make it again"
                )


def present(folder: Path) -> bool:
    """Whether there is such a folder; if a save was killed between its two renames, the old one is restored."""
    target = Path(os.path.realpath(folder))
    while not os.path.isdir(target):
        if not os.path.isdir(_previous(target)):
            return os.path.isdir(target)  # a writer between its renames may have ended meanwhile
        with locked(target, str(folder)):  # or wait for it
            _mend(target)
    return True


def _mend(target: Path) -> None:
    previous, trash = _previous(target), _partial(target)
    if not previous.is_dir():
        return
    if not target.exists():
        previous.replace(target)
    else:
        previous.replace(trash)  # if removal were interrupted under its own name, it would pass for the old folder
        shutil.rmtree(trash, ignore_errors=True)


def _previous(target: Path) -> Path:
    return target.with_name(f".{target.name}.previous")


def _partial(target: Path) -> Path:
    return target.with_name(f".{target.name}.{unique()}.partial")


def _stamp(folder: Path) -> tuple[int, ...]:
    """Identifies one save of a folder; () if it does not exist."""
    try:
        status = (folder / MANIFEST).stat()
    except OSError:
        return ()
    return status.st_ino, status.st_mtime_ns, status.st_size


def _hint(folder: Path) -> str:
    inner = folder / "model"
    if (inner / MANIFEST).exists():
        return f" {inner} is one"
    pickles = sorted(p.name for p in folder.glob("*.*") if p.suffix in (".bin", ".pth", ".pt", ".pkl", ".ckpt"))
    return f" ({', '.join(pickles)[:300]} is there, but pickles are never opened)" if pickles else ""


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object of up to `MAX_TEXT` bytes; raises CheckpointError if it cannot be read or is another value."""
    try:
        data = read_json(path, MAX_TEXT)
    except FileError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds a {type(data).__name__}, not an object")
    return data
