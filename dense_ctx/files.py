"""Files and folders that appear under their name only when complete."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
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
    once: bool = False,
    sync: bool = True,
) -> Iterator[Path]:
    """Give a path to write to; what lies there becomes `path` when the block ends, and is removed if it fails.

    Several processes may write one file at once: the last one stays. A path that is a link stays one: the file that it
    points to is replaced.

    Args:
        what: what is written, for the error; default the path.
        then: the error's last words.
        faults: errors of the block, beside OSError, that mean that the file cannot be written.
        once: a file that is there already, or that another process writes first, stays as it is.
        sync: wait for the disk, so that no loss of power leaves an empty file.

    Raises:
        FileError: it cannot be written. Errors of dense_ctx within the block pass as they are.
    """
    unwritable: tuple[type[Exception], ...] = (OSError, *faults)
    target = Path(os.path.realpath(path))
    partial = target.with_name(f".{target.stem}.{unique()}.partial{target.suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        if sync:
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
        if once:
            _name_once(partial, target)
        else:
            partial.replace(target)
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


def unique() -> str:
    """A name that no other process or thread uses."""
    return f"{os.getpid()}-{secrets.token_hex(4)}"


def write_text(path: Path, text: str, *, once: bool = False, sync: bool = True) -> None:
    """Write a text file in UTF-8, whole or not at all; arguments and errors as `new_file`."""
    with new_file(path, once=once, sync=sync) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def sync_folder(folder: Path, *, inside: bool = False) -> None:
    """Wait until a folder's list of names, and the files inside, are on disk."""
    windows = os.name == "nt"  # cannot open a folder, and its rename is durable; a file it syncs is open for writing
    for path in folder.iterdir() if inside else ():
        if path.is_file():
            with path.open("rb+" if windows else "rb") as file:
                os.fsync(file.fileno())
    if windows:
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, data: Any, *, once: bool = False, sync: bool = True) -> Path:
    """Write JSON, whole or not at all; arguments and errors as `new_file`."""
    text = json.dumps(data, indent=1, sort_keys=True, allow_nan=False) + "\n"
    write_text(path, text, once=once, sync=sync)
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
