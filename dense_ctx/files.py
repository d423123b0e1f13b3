"""Files and folders that appear under their name only when complete."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import DenseCtxError, FileError

if TYPE_CHECKING:
    from torch import Tensor


@contextlib.contextmanager
def new_file(
    path: Path,
    what: str = "",
    then: str = "",
    *,
    faults: tuple[type[Exception], ...] = (),
    shared: bool = False,
    once: bool = False,
    sync: bool = True,
) -> Iterator[Path]:
    """Give a path to write to; what lies there becomes `path` when the block ends, and is removed if it fails.

    Args:
        what: what is written, for the error; default the path.
        then: the error's last words.
        faults: errors of the block, beside OSError, that mean that the file cannot be written.
        shared: several processes may write this file at once; the last one stays.
        once: a file that is there already, or that another process writes first, stays as it is.
        sync: wait for the disk, so that no loss of power leaves an empty file.

    Raises:
        FileError: it cannot be written. Errors of dense_ctx within the block pass as they are.
    """
    unwritable: tuple[type[Exception], ...] = (OSError, *faults)
    process = f".{os.getpid()}" if shared else ""
    partial = path.with_name(f".{path.stem}{process}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        if sync:
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
        if once:
            _name_once(partial, path)
        else:
            partial.replace(path)
    except DenseCtxError:
        raise
    except unwritable as error:
        raise FileError(f"Cannot write {what or path}: {error}{then}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def _name_once(partial: Path, path: Path) -> None:
    try:
        os.link(partial, path)
    except FileExistsError:
        pass
    except OSError:  # a disk without links: of two that write in the same instant the last one stays
        if not path.exists():
            partial.replace(path)


def write_text(path: Path, text: str, *, shared: bool = False, once: bool = False) -> None:
    """Write a text file in UTF-8, whole or not at all; arguments and errors as `new_file`."""
    with new_file(path, shared=shared, once=once) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def write_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write into a new folder, which gets its name when all its files are on disk; raises FileError."""
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        fill(partial)
        for path in partial.iterdir():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        _sync_folder(partial)
        partial.replace(folder)
        _sync_folder(folder.parent)
    except OSError as error:
        raise FileError(f"Cannot write {folder}: {error}. What was there before is unchanged") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot open a folder; its rename is durable
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, data: Any, *, once: bool = False) -> Path:
    """Write JSON; it appears under its name only when complete. once: a file that is there already stays.

    Raises:
        FileError: it cannot be written.
    """
    write_text(path, json.dumps(data, indent=1, sort_keys=True, allow_nan=False) + "\n", shared=True, once=once)
    return path


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        FileError: missing, unreadable or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FileError(f"Cannot read {path}: {error}") from None
    except ValueError as error:
        raise FileError(f"{path} is not JSON: {error}") from None


def clean(value: Any) -> Any:
    """Values as JSON has them: NaN becomes null, tuples lists."""
    if isinstance(value, dict):
        return {str(k): clean(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(v) for v in value]
    if isinstance(value, float) and value != value:
        return None
    return value


def json_digest(value: Any) -> str:
    """sha256 of a value as JSON, hexadecimal."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """sha256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def state_digest(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over names, types, shapes and values, in order of names."""
    import torch

    digest = hashlib.sha256()
    for key in sorted(tensors):
        value = tensors[key].detach().cpu().contiguous()
        digest.update(f"{key} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file as any file: safetensors' own writer leaves it readable by its owner alone."""
    from safetensors.torch import save

    path.write_bytes(save(tensors, metadata))
