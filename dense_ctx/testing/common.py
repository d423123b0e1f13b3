"""Helpers of the checks: name clauses and compare tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..errors import ContractError, InputError
from ..interfaces import Features


class Clauses:
    """The verified clauses of one check, in order.

    Args:
        kind, part: what is checked, for messages: its registered name, class, function or module.
    """

    def __init__(self, kind: str, part: Any) -> None:
        self.subject = f"{kind} {part if isinstance(part, str) else getattr(part, '__name__', type(part).__name__)}"
        self.done: list[str] = []

    @contextmanager
    def clause(self, name: str) -> Iterator[Callable[[bool, str], None]]:
        """Verify one clause: pass each condition to the yielded function; any other error inside breaks the clause."""

        def require(holds: bool, message: str) -> None:
            if not holds:
                raise ContractError(name, f"{self.subject}: {message}")

        try:
            yield require
        except ContractError:
            raise
        except Exception as error:
            raise ContractError(name, f"{self.subject} raised {type(error).__name__}: {error}") from error
        if name not in self.done:
            self.done.append(name)


def difference(a: Tensor, b: Tensor) -> float:
    """Largest absolute difference over the largest magnitude of `b`; inf for different shapes or NaN."""
    if a.shape != b.shape:
        return float("inf")
    scale = b.abs().max().clamp_min(1e-12)
    value = float((a - b).abs().max() / scale)
    return value if value == value else float("inf")


def finite(tensor: Tensor) -> bool:
    """No NaN and no infinity."""
    return bool(torch.isfinite(tensor).all())


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Reproducible standard normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def decoder_inputs(
    dims: Sequence[int], strides: Sequence[int], grid: tuple[int, int] = (3, 5), dtype: torch.dtype = torch.float32
) -> tuple[Features, Tensor]:
    """Random maps and images, two of each, for a backbone with these dims and strides."""
    height, width = grid[0] * max(strides), grid[1] * max(strides)
    sizes = enumerate(zip(dims, strides, strict=True))
    maps = tuple(noise(2, d, height // s, width // s, seed=index).to(dtype) for index, (d, s) in sizes)
    features = Features(maps, noise(2, dims[-1], seed=99).to(dtype), (height, width))
    return features, noise(2, 3, height, width, seed=98).to(dtype)


@torch.no_grad()
def check_bfloat16(check: Clauses, run: Callable[[], Sequence[Tensor]]) -> None:
    """The clause bfloat16, where PyTorch has the kernels: the tensors of `run` have this type and are finite."""
    try:
        outputs = run()
    except Exception as error:
        if isinstance(error, (RuntimeError, NotImplementedError)) and "not implemented for" in str(error):
            return  # no kernel for this type on this device, which is no fault of the part
        with check.clause("bfloat16"):
            raise
    with check.clause("bfloat16") as require:
        require(all(m.dtype == torch.bfloat16 for m in outputs), f"gave {[m.dtype for m in outputs]} in bfloat16")
        require(all(finite(m) for m in outputs), "NaN or infinity in bfloat16")


def factory(kind: str, part: Any, arguments: dict[str, Any]) -> Callable[..., Any]:
    """A function that builds the part from its registered name, class or function."""
    if isinstance(part, str):
        from ..plugins import registry

        return lambda **more: registry().create(kind, part, **{**arguments, **more})
    if not callable(part):
        raise InputError(f"expected the name of a {kind}, its class or a function; got {type(part).__name__}")
    return lambda **more: part(**{**arguments, **more})
