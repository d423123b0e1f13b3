"""One clip's maps in one safetensors file, written incrementally, so that memory does not grow with the clip.

The tensor "maps" is float16 [N, k, c, H, W]. A single-frame cue has N = frames, k = 1. A pair cue has one row a pair
(t, t + g), ordered by the later frame, then by g; k = 2, (context, query), or 4 where the swapped pair does not follow
from these: (context, query) of (t, t + g), then of (t + g, t).
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from dense_ctx.data.cache import CHECKSUM, Shard, checksums, words_checksum
from dense_ctx.errors import FileError, InputError
from dense_ctx.interfaces import Size
from dense_ctx.partial_files import remove_left, unique
from dense_ctx.persistence.tensors import Spec

HEADER = 4096  # bytes kept for the header, which is known only at the end


def row(t: int, gap: int, gaps: Sequence[int]) -> int:
    """The row of the pair (t, t + gap), with gap one of `gaps` (sorted, above 0)."""
    later = t + gap
    return sum(max(0, later - g) for g in gaps) + sum(g < gap for g in gaps)


def rows(frames: int, gaps: Sequence[int]) -> int:
    """How many pairs a clip has."""
    return sum(max(0, frames - g) for g in gaps)


def specs(count: int | str = "rows", kinds: int | str = "kinds", channels: int | str = "channels") -> dict[str, Spec]:
    """What a clip's file holds; a letter or word stands for any length."""
    return {"maps": (torch.float16, (count, kinds, channels, "H", "W"))}


class ShardWriter:
    """Appends maps to `path`, which appears when `finish` is called; use as a context manager.

    Raises:
        OSError: it cannot be written (no space ...).
        InputError: maps that float16 cannot hold: NaN, infinity, beyond 65504.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.partial = path.with_name(f".{path.name}.{unique()}.partial")
        self.shape: tuple[int, ...] = ()
        self.checksums: list[int] = []

    def __enter__(self) -> ShardWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        remove_left(self.path.parent)
        self._file = self.partial.open("wb")
        self._file.write(b" " * HEADER)
        return self

    def append(self, maps: Tensor) -> None:
        """Add rows [n, k, c, H, W]."""
        half = maps.to(device="cpu", dtype=torch.float16).contiguous()
        if not bool(half.isfinite().all()):
            raise InputError(
                f"row {len(self.checksums)} and on: NaN, infinity or values beyond 65504 do not fit float16"
            )
        self.shape = tuple(half.shape[1:])
        self.checksums += checksums(half)
        self._file.write(half.numpy().tobytes())

    def finish(self, metadata: Mapping[str, str]) -> int:
        """Write the header and give the file its name; returns its bytes."""
        count, end = len(self.checksums), self._file.tell() - HEADER
        self._file.write(torch.tensor(self.checksums, dtype=torch.int64).numpy().tobytes())
        size = self._file.tell() - HEADER
        header = {
            "__metadata__": {**metadata, CHECKSUM: words_checksum(metadata)},
            "maps": {"dtype": "F16", "shape": [count, *self.shape], "data_offsets": [0, end]},
            f"maps{CHECKSUM}": {"dtype": "I64", "shape": [count], "data_offsets": [end, size]},
        }
        text = json.dumps(header).encode()
        self._file.seek(0)
        self._file.write((HEADER - 8).to_bytes(8, "little") + text.ljust(HEADER - 8))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self.partial.replace(self.path)
        return size + HEADER

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(OSError):
            self.partial.unlink(missing_ok=True)


class ClipShard(Shard):
    """A clip's maps: `frames`, `size` (H, W), `video` (its stamp), and rows.

    Raises:
        FileError: missing or damaged.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.require(specs())
        try:
            self.frames = int(self.metadata["frames"])
            self.size: Size = self.specs["maps"][1][-2:]
            self.video: dict[str, str] = json.loads(self.metadata["video"])
        except (KeyError, ValueError) as error:
            raise FileError(f"{path} is no clip of a cue cache ({error!r}); remove it and make it again") from error

    def read(self, index: int) -> Tensor:
        """Row `index`: float32 [k, c, H, W]; raises FileError for a damaged one."""
        return self.row("maps", index).float()
