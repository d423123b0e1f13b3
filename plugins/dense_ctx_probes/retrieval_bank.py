"""A memory bank of patches with an equal share for each image, in memory, on an accelerator, or in files.

Published evaluators give each of n support images size // n places. Here images come one at a time and n is not known
before: each image's rows are kept in the order in which they would be chosen, and as images come, all are cut to the
share that is left. What remains after the last is what a choice with n known beforehand gives.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor

from dense_ctx.errors import InputError, NotFittedError

from .retrieval_files import RowFile

_SLACK = 1.25  # rows above the size before all images are cut at once


class Bank:
    """Rows of keys and their values.

    Args:
        size: rows at most.
        dtype: of what is kept.
        unit: scale keys to unit length.
        device: where it is kept.
        folder: keep it in two files there (removed with the bank) in place of memory; values then have one width.
    """

    def __init__(
        self,
        size: int,
        dtype: torch.dtype = torch.float32,
        unit: bool = True,
        device: str | torch.device = "cpu",
        folder: str | os.PathLike[str] | None = None,
    ) -> None:
        self.size, self.dtype, self.unit, self.device = size, dtype, unit, torch.device(device)
        self._keys: list[Tensor] = []  # one an image; empty where they are in files
        self._values: list[Tensor] = []
        self._files = None if folder is None else (RowFile(folder, "keys", dtype), RowFile(folder, "values", dtype))
        self._counts: list[int] = []
        self._whole: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        """Images."""
        return len(self._counts)

    @property
    def rows(self) -> int:
        """Rows there are now; up to a quarter more than `size` while images come."""
        return sum(self._counts)

    def add(self, keys: Tensor, values: Tensor) -> None:
        """Add an image: keys [n, C] of any length, values [n, K], best choices first. K may grow from call to call
        (not in files).

        Raises:
            InputError: C, or in files K, differs from what is there.
            FileError: the files cannot be written.
        """
        width = self._files[0].width if self._files else (self._keys[0].shape[1] if self._keys else None)
        if width not in (None, keys.shape[1]):
            raise InputError(f"features have {keys.shape[1]} dimensions; those in memory {width}")
        share = max(1, self.size // (len(self) + 1))
        rows = keys[:share].float()
        if self.unit:
            # a patch with zero features has no direction: its cosines are 0
            rows = (rows / rows.norm(dim=1, keepdim=True)).nan_to_num(0, 0, 0)
        self._append(rows.to(self.dtype), values[:share].to(self.dtype))
        if self.rows > _SLACK * self.size:
            self._trim()

    def _append(self, keys: Tensor, values: Tensor) -> None:
        self._whole = None
        if self._files:
            for file, part in zip(self._files, (keys, values), strict=True):
                file.append(part)
        else:
            self._keys.append(keys.to(self.device).clone())
            self._values.append(values.to(self.device).clone())
        self._counts.append(len(keys))

    def _trim(self) -> None:
        """Cut each image to its share; beyond `size` images, later ones have none."""
        share = max(1, self.size // max(1, len(self)))
        quotas = [min(count, share if index < self.size else 0) for index, count in enumerate(self._counts)]
        if quotas == self._counts:
            return
        self._whole = None
        if self._files:
            for file in self._files:
                file.keep(self._counts, quotas)
        else:
            for index, count in enumerate(quotas):
                if count < self._counts[index]:  # copies: a view would keep the rest alive
                    self._keys[index] = self._keys[index][:count].clone()
                    self._values[index] = self._values[index][:count].clone()
        self._counts = quotas

    def whole(self) -> tuple[Tensor, Tensor]:
        """All keys [M, C] and values [M, K], image after image; views of the files where they are in files.

        Raises:
            NotFittedError: empty.
        """
        if self._whole is None:
            self._trim()
            if not self.rows:
                raise NotFittedError("The support set is empty: nothing is in memory. Call fit with annotated images")
            self._whole = (self._files[0].view(), self._files[1].view()) if self._files else self._concatenation()
        return self._whole

    def _concatenation(self) -> tuple[Tensor, Tensor]:
        width = max(part.shape[1] for part in self._values)
        keys = torch.empty(self.rows, self._keys[0].shape[1], dtype=self.dtype, device=self.device)
        values = torch.zeros(self.rows, width, dtype=self.dtype, device=self.device)
        start = 0
        for index, (key, value) in enumerate(zip(self._keys, self._values, strict=True)):
            stop = start + len(key)
            keys[start:stop], values[start:stop, : value.shape[1]] = key, value
            # the parts become views of the whole, so that memory holds it once
            self._keys[index], self._values[index] = keys[start:stop], values[start:stop]
            start = stop
        return keys, values

    def counts(self) -> Tensor:
        """Rows of each image, int64."""
        self._trim()
        return torch.tensor(self._counts, dtype=torch.int64)

    def restore(self, keys: Tensor, values: Tensor, counts: Tensor) -> None:
        """Restore the results of `whole` and `counts`, cut where this bank is smaller."""
        lengths = counts.tolist()
        if len(keys) != len(values) or sum(lengths) != len(keys):
            raise InputError(f"a bank of {len(keys)} keys, {len(values)} values and {sum(lengths)} rows of images")
        self._counts = lengths
        if self._files:
            self._whole = None
            for file, part in zip(self._files, (keys, values), strict=True):
                file.clear()
                file.append(part.to(self.dtype))
            return
        keys, values = (part.to(self.device, self.dtype) for part in (keys, values))
        self._keys, self._values = list(keys.split(lengths)), list(values.split(lengths))
        self._whole = keys, values
        self._trim()  # a bank that was larger
