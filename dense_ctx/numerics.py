"""Finite values, linear systems, random states: numerics that several parts use."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .errors import NonFiniteError

Bias = Literal["free", "penalized", "none"]
_assumed: ContextVar[list[Tensor] | None] = ContextVar("assumed", default=None)


@contextmanager
def assuming() -> Iterator[list[Tensor]]:
    """Within the context the host does not wait for what `holds` asks of an accelerator; yields these conditions.

    Look at all of them at once, at the end. If one is false, do the work again, outside: what was assumed is then
    looked at where it matters, and refused or solved otherwise there. So the work must be one that can be repeated.
    """
    conditions: list[Tensor] = []
    token = _assumed.set(conditions)
    try:
        yield conditions
    finally:
        _assumed.reset(token)


def holds(condition: Tensor, late: bool = False) -> bool:
    """Whether a condition, bool [], is true; within `assuming` an accelerator's is taken to be, `late` a CPU's too.

    In a graph that is compiled every condition is taken to be true, and is only within `assuming` looked at later.
    """
    conditions, late = _assumed.get(), late or torch.compiler.is_compiling()
    if conditions is None:
        return torch.compiler.is_compiling() or bool(condition)
    if condition.device.type == "cpu" and not late:
        return bool(condition)
    conditions.append(condition)
    return True


def require_finite(what: str, advice: str = "", **tensors: Tensor | None) -> None:
    """Refuse NaN and infinity, at the cost of one sum over each tensor and one synchronisation; see `assuming`.

    Args:
        what: description of the tensors. advice: what to do, for the message.

    Raises:
        NonFiniteError: names the tensors.
    """
    floats = {k: t.detach() for k, t in tensors.items() if t is not None and t.is_floating_point() and t.numel()}
    if not floats:
        return
    small, first = (torch.float16, torch.bfloat16), next(iter(floats.values()))  # small: a CPU's sum copies to float32
    parts = [p for t in floats.values() for p in (t.split(16, -2) if t.is_cpu and t.itemsize == 2 < t.ndim else [t])]
    sums = [p.sum(dtype=torch.float32 if p.dtype in small else None).to(first.device).float() for p in parts]
    if holds(torch.stack(sums).isfinite().all()):
        return
    names = [name for name, tensor in floats.items() if not bool(tensor.isfinite().all())]  # a sum may overflow itself
    if names:
        listing = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if names[4:] else "")
        raise NonFiniteError(f"{what}: NaN or infinity in {listing}" + (f". {advice}" if advice else ""))


class IllConditioned(ArithmeticError):
    """A linear system whose solution has too few correct digits in its precision."""


def solve(system: Tensor, right: Tensor) -> Tensor:
    """The solution X [..., d, m] of `system` X = `right`, by Cholesky factorisation; differentiable.

    Args:
        system: symmetric and positive definite, [..., d, d].
        right: [..., d, m].

    Raises:
        IllConditioned: the system is singular, or float32 would lose half of its digits (float64 all).
    """
    factor, info = torch.linalg.cholesky_ex(system)
    diagonal = factor.detach().diagonal(dim1=-2, dim2=-1)
    span = diagonal.amax(-1) / diagonal.amin(-1)
    limit = 1e3 if system.dtype == torch.float32 else 1e7
    if not holds((info == 0).all() & (span < limit).all()):  # so that NaN fails too
        raise IllConditioned
    return torch.cholesky_solve(right, factor)


@contextmanager
def preserve_generators() -> Iterator[None]:
    """Restore the global random states of Python, NumPy and torch (on the CPU) at the end of the context."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def random_states(device: torch.device) -> tuple[Any, ...]:
    """Of all global generators, a device's too: equal where nothing was drawn."""
    own = None if device.type == "cpu" else torch.get_device_module(device).get_rng_state().tolist()
    return random.getstate(), repr(np.random.get_state()), torch.get_rng_state().tolist(), own


def _places() -> dict[str, tuple[Any, str]]:
    """Where PyTorch decides what becomes of float32 products, on CUDA and with oneDNN on the CPU: objects and names."""
    backends: Any = torch.backends
    cudnn, mkldnn, precision = backends.cudnn, backends.mkldnn, "fp32_precision"
    return {"cuda.matmul": (backends.cuda.matmul, precision), "cudnn.conv": (cudnn.conv, precision),
            "cudnn.rnn": (cudnn.rnn, precision), "mkldnn.matmul": (mkldnn.matmul, precision),
            "mkldnn.conv": (mkldnn.conv, precision), "cudnn.benchmark": (cudnn, "benchmark"),
            "cudnn.deterministic": (cudnn, "deterministic")}  # fmt: skip


def float32_settings() -> dict[str, Any]:
    """What float32 products are computed in ("ieee", "tf32"; "none": as PyTorch likes), and whether cuDNN may vary."""
    return {key: getattr(place, name) for key, (place, name) in _places().items()}


@contextmanager
def arithmetic(tf32: bool = False) -> Iterator[None]:
    """Within the context float32 products and convolutions are float32's, or on CUDA TF32's, the same each time.

    PyTorch's settings hold for the whole process, may be anyone's, and on CUDA begin with TF32 in convolutions.
    """
    cudnn, before, legacy = torch.backends.cudnn, float32_settings(), None
    with suppress(RuntimeError):  # it has two sets of names, and complains of the older where they disagree
        legacy = torch.get_float32_matmul_precision(), cudnn.allow_tf32
    word = {True: "tf32", False: "ieee"}
    ours: dict[str, Any] = {name: word[tf32 and not name.startswith("mkldnn")] for name in _places()}
    ours |= {"cudnn.benchmark": False, "cudnn.deterministic": True}
    try:
        _set_float32(ours, ("high" if tf32 else "highest", tf32))
        yield
    finally:
        _set_float32(before, legacy)


def _set_float32(settings: dict[str, Any], legacy: tuple[str, bool] | None) -> None:
    if legacy is not None:
        torch.set_float32_matmul_precision(legacy[0])
        torch.backends.cudnn.allow_tf32 = legacy[1]
    for key, (place, name) in _places().items():
        setattr(place, name, settings[key])
