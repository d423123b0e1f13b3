"""Folders that are whole or not there, with the sha256 of each file: models, fitted contexts, training states.

A folder is written beside its place, synced and swapped in under a lock, so that a kill leaves the old one or the new
one. A path that is a link stays one: what it points to is replaced. Tensors in them: `dense_ctx.persistence.tensors`.
"""

from __future__ import annotations

import glob
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
from ..files import MAX_TEXT, file_digest, read_json, regular_size, sync_folder, tensor_shapes, unique, write_json
from .lock import locked

MANIFEST = "manifest.json"
_MAX_JSON = 16 << 20  # bytes that are worth hashing
_READS = 100  # attempts to read a folder that is replaced meanwhile

T = TypeVar("T")
P = TypeVar("P")


@dataclass(frozen=True)
class Artefact:
    """A kind of folder.

    what: it is called in messages. files: those of its manifest; the first one marks a folder as one of this kind.
    Other files in the folder are a person's own: they stay when it is saved anew, and are not verified.
    """

    what: str
    files: tuple[str, ...]

    def write(self, folder: Path, fill: Callable[[Path], None]) -> None:
        """Write a folder, or replace one.

        Args:
            fill: writes `files` into the folder it is given.

        Raises:
            FileError: `folder` holds something else, another process is writing it, or it cannot be written. What was
                there is unchanged.
        """
        target = Path(os.path.realpath(folder))
        partial = _partial(target)
        with locked(target, f"The {self.what} {folder}"):
            _mend(target)
            for left in target.parent.glob(f".{glob.escape(target.name)}.*.partial"):  # by kills; the lock is ours
                shutil.rmtree(left, ignore_errors=True)
            if target.exists() and not (target / self.files[0]).exists() and _in_use(target):
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
                    if swapped:  # and perhaps not on disk: the old one is put back below
                        target.replace(partial)
                raise FileError(
                    f"Cannot write the {self.what} {folder}: {error}. What was there is unchanged"
                ) from error
            finally:
                with suppress(OSError):
                    _mend(target)
                shutil.rmtree(partial, ignore_errors=True)

    def _copy_others(self, target: Path, partial: Path) -> None:
        for item in target.iterdir() if target.exists() else ():
            if item.name not in (*self.files, MANIFEST):
                if item.is_dir() and not item.is_symlink():
                    shutil.copytree(item, partial / item.name, symlinks=True)
                else:
                    shutil.copy2(item, partial / item.name, follow_symlinks=False)

    def read(self, folder: Path, plan: Callable[[Path], P], load: Callable[[Path], T]) -> tuple[P, T]:
        """What `plan` and `load` make of the verified folder; all of one saving, though another may go on meanwhile.

        Args:
            plan: reads the first file, when that one alone is verified, and may refuse what the others would cost.
            load: reads the others.

        Raises:
            FileError: a file is missing, or is no regular file.
            CheckpointError: damaged. Errors of `plan` and `load`.
        """
        for attempt in range(_READS):
            recover(folder)
            before = _stamp(folder)
            try:
                self._check(folder, self.files[:1])
                first = plan(folder)
                self._check(folder, self.files[1:])
                result = first, load(folder)
            except (CheckpointError, FileError):
                # a folder that is just being swapped is not there for an instant
                if before == _stamp(folder) and (before or not _previous(folder).exists()):
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


def recover(folder: Path) -> None:
    """A save killed between its two renames left the old folder under its second name: put it back."""
    target = Path(os.path.realpath(folder))
    if target.name and not target.exists() and _previous(target).is_dir():
        with locked(target, str(folder)):  # else the writer is alive, and between them just now
            _mend(target)


def _mend(target: Path) -> None:
    previous, trash = _previous(target), _partial(target)
    if not previous.is_dir():
        return
    if not target.exists():
        previous.replace(target)
    else:
        previous.replace(trash)  # half removed under its own name, it would pass for the old folder
        shutil.rmtree(trash, ignore_errors=True)


def _in_use(target: Path) -> bool:
    return not target.is_dir() or any(not item.name.startswith(".") for item in target.iterdir())


def _previous(target: Path) -> Path:
    return target.with_name(f".{target.name}.previous")


def _partial(target: Path) -> Path:
    return target.with_name(f".{target.name}.{unique()}.partial")


def _stamp(folder: Path) -> tuple[int, ...]:
    """What tells one saving of a folder from another; () where there is none."""
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
    """A JSON object of up to `MAX_TEXT` bytes; raises CheckpointError where it is none, or cannot be read."""
    try:
        data = read_json(path, MAX_TEXT)
    except FileError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds a {type(data).__name__}, not an object")
    return data
