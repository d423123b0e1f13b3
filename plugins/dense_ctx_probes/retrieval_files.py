"""Rows of a memory bank in a memory-mapped file; the operating system loads and evicts its pages."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from dense_ctx.errors import FileError, InputError

_BLOCK = 1 << 16  # rows moved at a time


class RowFile:
    """Rows of one width and type, in a file of its own that goes when this object goes.

    Args:
        folder: where; made if missing.
        name: in the file's name.
        dtype: of the rows.

    Raises:
        FileError: the folder cannot be written.
    """

    def __init__(self, folder: str | os.PathLike[str], name: str, dtype: torch.dtype) -> None:
        self.dtype, self.rows = dtype, 0
        self.width: int | None = None
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            number, path = tempfile.mkstemp(prefix=f"bank-{name}-", suffix=".bin", dir=folder)
        except OSError as error:
            raise FileError(f"Cannot keep a memory bank in {folder}: {error}") from error
        os.close(number)
        self.path = Path(path)
        weakref.finalize(self, _remove, path)

    def append(self, rows: Tensor) -> None:
        """Write rows [n, width] at the end.

        Raises:
            InputError: of another width.
            FileError: no room.
        """
        if self.width not in (None, rows.shape[1]):
            raise InputError(
                f"rows of {rows.shape[1]} numbers, where the file has {self.width}: a bank in files needs the number "
                "of classes from the start (classes=...)"
            )
        self.width = rows.shape[1]
        try:
            with self.path.open("ab") as file:
                for part in rows.detach().split(_BLOCK):
                    file.write(part.to("cpu", self.dtype).contiguous().view(torch.uint8).numpy().data)
        except OSError as error:
            raise FileError(f"Cannot write {self.path}: {error}") from error
        self.rows += len(rows)

    def view(self) -> Tensor:
        """All rows [n, width], mapped; writing to it would change the file."""
        width = self.width or 0
        return torch.from_file(str(self.path), shared=True, size=self.rows * width, dtype=self.dtype).view(-1, width)

    def keep(self, counts: Sequence[int], quotas: Sequence[int]) -> None:
        """Of consecutive parts of `counts` rows keep the first `kept` of each, in place."""
        rows, start, stop = self.view(), 0, 0
        for count, quota in zip(counts, quotas, strict=True):
            if start != stop:  # parts move towards the front, so that blocks may overlap what they come from
                for block in range(0, quota, _BLOCK):
                    size = min(_BLOCK, quota - block)
                    rows[stop + block : stop + block + size] = rows[start + block : start + block + size].clone()
            start, stop = start + count, stop + quota
        del rows
        os.truncate(self.path, stop * (self.width or 0) * self.dtype.itemsize)
        self.rows = stop

    def clear(self) -> None:
        """Remove all rows."""
        os.truncate(self.path, 0)
        self.width, self.rows = None, 0


def _remove(path: str) -> None:
    Path(path).unlink(missing_ok=True)
