"""Banks on the accelerator that searches them: copied once, where they fit a budget."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from dense_ctx.tiling import parse_memory


def free_memory(device: torch.device) -> int:
    """Bytes that a tensor on an accelerator may take; where the driver does not say, 2 GB."""
    if device.type != "cuda":
        return 2 << 30
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + cached


class Resident:
    """Copies of a bank's tensors on the device of the queries.

    Args:
        budget: bytes that they may take there, or "8GB"; None: half of what is free.

    Raises:
        InputError: not a size.
    """

    def __init__(self, budget: str | int | None = None) -> None:
        self.budget = None if budget is None else parse_memory(budget)
        self.clear()

    def clear(self) -> None:
        """Drop the copies: the bank has changed."""
        self._device: torch.device | None = None
        self._bank: tuple[Tensor, ...] = ()
        self._copies: tuple[Tensor, ...] = ()

    def of(self, device: torch.device, *bank: Tensor) -> tuple[Tensor, ...]:
        """The bank on `device`, or as it is where that would take more than the budget: to be searched in blocks."""
        if device.type == "cpu" or all(tensor.device == device for tensor in bank):
            return bank
        hit = self._device == device and len(self._bank) == len(bank)
        if not hit or any(one is not other for one, other in zip(self._bank, bank, strict=True)):
            self.clear()
            needed = sum(tensor.numel() * tensor.element_size() for tensor in bank)
            room = free_memory(device) // 2 if self.budget is None else self.budget
            if needed > room:
                warnings.warn(
                    f"The bank takes {needed / 1e9:.3g} GB, and {room / 1e9:.3g} GB of {device} are for it: every "
                    "search copies it again, block by block. Give a smaller memory, or a larger device_memory",
                    stacklevel=3,
                )
            copies = bank if needed > room else tuple(tensor.to(device) for tensor in bank)
            self._device, self._bank, self._copies = device, bank, copies
        return self._copies
