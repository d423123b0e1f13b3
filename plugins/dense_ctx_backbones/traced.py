"""Trace which of a checkpoint's tensors a converter uses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

from .weights import State


class Traced(Tensor):
    """A tensor that keeps the names of those it was computed from."""

    sources: frozenset[str] = frozenset()

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Compute, and join the names of all arguments."""
        result = super().__torch_function__(func, types, args, kwargs or {})  # type: ignore[no-untyped-call]
        names = frozenset[str]().union(*(item.sources for item in _leaves((args, kwargs))))
        for item in _leaves(result):
            item.sources |= names
        return result


def _leaves(value: Any) -> Iterator[Traced]:
    if isinstance(value, Traced):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _leaves(item)


def trace(convert: Callable[[State], Mapping[str, Tensor]], state: State) -> tuple[State, dict[str, frozenset[str]]]:
    """Convert a state dict; also the names of the tensors that each tensor of the result was made from.

    Raises:
        Exception: whatever `convert` does.
    """
    traced: State = {}
    for name, value in state.items():
        tensor: Any = value.detach().as_subclass(Traced)
        tensor.sources = frozenset((name,))
        traced[name] = tensor
    result = convert(traced)
    sources = {key: value.sources if isinstance(value, Traced) else frozenset() for key, value in result.items()}
    return {key: value.as_subclass(Tensor) for key, value in result.items()}, sources
