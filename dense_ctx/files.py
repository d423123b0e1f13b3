"""Files that appear under their name only when complete; untrusted files, read within bounds."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import re
import stat
import zipfile
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import DenseCtxError, FileError
from .partial_files import remove_left, unique
from .persistence.plain_data import DATA_CLASSES, require_tree

if TYPE_CHECKING:
    from torch import Tensor

MAX_TEXT = 1 << 19  # bytes of a configuration or a manifest; the largest known have some 100 thousand
MAX_JSON = 256 << 20  # bytes of records and results
MAX_HEADER = 4 << 20  # bytes of a safetensors header: a tensor takes about a hundred
_BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
          "F32": 4, "I32": 4, "U32": 4, "F64": 8, "I64": 8, "U64": 8, "C64": 8}  # fmt: skip


def regular_size(path: Path, limit: int | None = None) -> int:
    """Bytes of a regular file; it is not opened, so that pipes cannot block nor devices read without end.

    Raises:
        FileError: missing, a folder, a pipe, a socket or a device (links are followed); or above `limit` bytes.
    """
    try:
        info = path.stat()
    except (OSError, ValueError) as error:
        raise FileError(f"Cannot read {str(path)[:300]}: {error.__class__.__name__}: {error!s:.300}") from None
    if not stat.S_ISREG(info.st_mode):
        raise FileError(f"{str(path)[:300]} is not a regular file (a folder, a pipe or a device); it is not opened")
    if limit is not None and info.st_size > limit:
        raise FileError(f"{path} has {info.st_size:,} bytes; no more than {limit:,} are read")
    return info.st_size


def read_text(path: Path, limit: int = MAX_TEXT) -> str:
    """Read a text file in UTF-8; raises FileError as `regular_size`, or if it is not text."""
    regular_size(path, limit)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"Cannot read {path}: {error}") from None


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a safetensors file, read from its header; no tensor is allocated.

    Raises:
        FileError: as `regular_size`. ValueError: a damaged header, one above `MAX_HEADER` bytes, or one that does not
            account for every byte of the file.
    """
    size = regular_size(path)
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            text = b"" if length > min(size - 8, MAX_HEADER) else file.read(length)
    except OSError as error:
        raise FileError(f"Cannot read {path}: {error}") from None
    if not text:
        raise ValueError(f"its header would have {length:,} bytes, of {size:,}; no more than {MAX_HEADER:,} are read")
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        shapes = {name: tuple(map(int, item["shape"])) for name, item in header.items()}
        sizes = sum(prod(shapes[name]) * _BYTES[item["dtype"]] for name, item in header.items())
        spans = sum(item["data_offsets"][1] - item["data_offsets"][0] for item in header.values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise ValueError(f"its header cannot be read ({type(error).__name__})") from None
    if not sizes == spans == size - 8 - length or any(side < 0 for shape in shapes.values() for side in shape):
        raise ValueError(f"its header describes {sizes:,} bytes of tensors, and {size - 8 - length:,} follow it")
    return shapes


def read_array(path: Path) -> Any:
    """A .npy file; raises FileError as `regular_size`, for damage, and for pickled objects, which are not opened."""
    import numpy as np

    regular_size(path)
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise FileError(f"{path} is not an array file (.npy): {error}") from error


def read_pickle(path: Path) -> Any:
    """Read what torch.save wrote: tensors and plain containers. The only place where a pickle is read.

    torch reads it with weights_only=True: tensors, numbers, text; a class (argparse.Namespace) if its user allows it.

    Raises:
        FileError: as `regular_size`. ValueError: damaged, or a pickle of other objects.
    """
    import torch

    size = regular_size(path)
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if (whole := sum(item.file_size for item in archive.infolist())) > size:
                    raise ValueError(f"it would unpack from {size:,} bytes to {whole:,}; torch.save packs nothing")
        return require_tree(torch.load(path, map_location="cpu", weights_only=True, mmap=False))
    except pickle.UnpicklingError as error:
        what = "a damaged pickle, or one that holds more than tensors, which is not opened because it could run code"
        match = re.search(r"GLOBAL ([\w.]+)", str(error))
        if match and DATA_CLASSES.fullmatch(name := match[1]):
            entry = f'({name}, "{name}")' if name.startswith("numpy.core.") else name  # numpy 2 has moved it
            line = f"`import torch, {name.rpartition('.')[0]}; torch.serialization.add_safe_globals([{entry}])`"
            what += f": {name}. Where you trust it, allow it: {line}, or `dense-ctx convert ... --allow {name}`"
        elif match:
            what = f"a pickle that holds more than tensors and runs code, {name}: do not open it, ask for .safetensors"
        raise ValueError(what) from error
    except Exception as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


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
    """Yield a temporary path, which is renamed to `path` when the block ends, and removed if the block fails.

    Of several processes that write one file at once, the last one wins. A link stays a link: its target is replaced.
    What killed writers left in the folder is removed first.

    Args:
        what: description of the file, for the error; default the path.
        then: the end of the error's message.
        faults: exceptions, beside OSError, that mean that the file cannot be written.
        once: keep a file that exists already, or that another process writes first.
        sync: wait for the disk, so that a loss of power leaves no empty file.

    Raises:
        FileError: it cannot be written. A DenseCtxError raised in the block passes unchanged.
    """
    unwritable: tuple[type[Exception], ...] = (OSError, *faults)
    target = Path(os.path.realpath(path))
    partial = target.with_name(f".{target.stem[:50]}.{unique()}.partial{target.suffix}")  # 255 bytes
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_left(target.parent)
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
    except OSError:  # a file system without links: the first to open it writes it, in view of the others
        with contextlib.suppress(FileExistsError), path.open("xb") as file:
            file.write(partial.read_bytes())


def write_text(path: Path, text: str, *, once: bool = False, sync: bool = True) -> None:
    """Write a text file in UTF-8, atomically; arguments and errors as `new_file`."""
    with new_file(path, once=once, sync=sync) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def sync_folder(folder: Path, *, inside: bool = False) -> None:
    """Wait until a folder's entries, and with `inside` its files, are on disk."""
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
    """Write JSON, atomically; arguments and errors as `new_file`."""
    text = json.dumps(data, indent=1, sort_keys=True, allow_nan=False) + "\n"
    write_text(path, text, once=once, sync=sync)
    return path


def read_json(path: Path, limit: int = MAX_JSON) -> Any:
    """Read JSON; raises FileError as `read_text`, or if it is not JSON."""
    try:
        return json.loads(read_text(path, limit))
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path} is not JSON: {error}") from None


def json_digest(value: Any) -> str:
    """sha256 of a value as JSON with sorted keys, hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


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
    """Write a safetensors file with the usual permissions; safetensors' own writer restricts it to its owner."""
    from safetensors.torch import save

    path.write_bytes(save(tensors, metadata))
