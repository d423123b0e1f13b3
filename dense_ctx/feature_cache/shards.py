"""One file of a cache: the maps of up to SHARD images, mapped into memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import FileError


def shard_path(folder: Path, number: int) -> Path:
    """Where file number `number` lies."""
    return folder / f"features-{number:05d}.safetensors"


class Shard:
    """shapes: of each tensor, the first axis counts images. weights: digest of the backbone's.

    Raises:
        FileError: missing or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            opened: Any = safe_open
            self._file = opened(str(path), framework="pt")
            self._slices = {key: self._file.get_slice(key) for key in self._file.keys()}  # noqa: SIM118  no mapping
            self.shapes: dict[str, list[int]] = {key: list(part.get_shape()) for key, part in self._slices.items()}
            self.weights: str = (self._file.metadata() or {}).get("weights", "")
        except (SafetensorError, OSError) as error:
            raise FileError(f"{path} is missing or damaged ({type(error).__name__}: {error}); make it again") from error

    def read(self, key: str, row: int) -> Tensor:
        """One image's row of a tensor, float16 [1, ...]; only its bytes are read."""
        values: Tensor = self._slices[key][row : row + 1]
        return values
