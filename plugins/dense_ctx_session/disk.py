"""Features on disk: one folder for all models and sessions, of which the least recently used go first."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from dense_ctx.data.cache import DiskCache, Shard
from dense_ctx.errors import FileError
from dense_ctx.files import json_digest
from dense_ctx.persistence.identity import Identity

FORMAT = 1
_LEFT = 0.9  # of the budget, after making room


class DiskFeatures:
    """Tensors by name, under the identity of a model.

    Args:
        folder: of all models. budget: bytes of all files in it. identity: of this model's features.
    """

    def __init__(self, folder: Path, budget: int, identity: Mapping[str, Any]) -> None:
        settings = {"format": FORMAT, "model": dict(identity)}
        self.folder, self.budget = Path(os.path.abspath(folder)), budget
        home = self.folder / json_digest(settings)[:16]
        self._cache = DiskCache(Identity(home / "manifest.json", "cache of session features"), settings, Shard)
        self._cache.claim()
        self._bytes: int | None = None  # of all files; None: not counted yet
        self._full = False

    def read(self, name: str, keys: tuple[str, ...]) -> dict[str, Tensor] | None:
        """Tensors; None where there are none, or where they are damaged."""
        path = self._cache.path(name)
        if not path.exists():
            return None
        try:
            shard = Shard(path)
            tensors = {key: shard.tensor(key) for key in keys}
        except FileError:
            return None
        with suppress(OSError):  # another user's
            os.utime(path)  # used now
        return tensors

    def write(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Store tensors. A disk that is full or not writable is told once, and then nothing is stored any more."""
        if self._full:
            return
        try:
            size = self._cache.write(name, tensors, sync=False)
        except FileError as error:
            self._full = True
            warnings.warn(f"Features are kept in memory alone from here on: {error}", stacklevel=2)
            return
        if self._bytes is None or self._bytes + size > self.budget:
            self._make_room()
        else:
            self._bytes += size

    def _make_room(self) -> None:
        """Count all files, other processes' too, and remove the oldest beyond the budget."""
        files = []
        for path in self.folder.rglob("*.safetensors"):
            with suppress(OSError):
                status = path.stat()
                files.append((status.st_mtime_ns, status.st_size, path))
        total = sum(size for _, size, _ in files)
        if total > self.budget:
            for _, size, path in sorted(files)[:-1]:  # the newest stays
                if total <= _LEFT * self.budget:
                    break
                with suppress(OSError):
                    path.unlink()
                    total -= size
        self._bytes = total
