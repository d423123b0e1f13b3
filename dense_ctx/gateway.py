"""Translation of other libraries' and the system's errors to dense_ctx's, in one place.

`gateway` decorates the public functions, and the command line translates the errors of every verb. Nothing is checked
before an error occurs. The annotations tell which argument is at fault; an error that no argument explains and that
looks like a bug of the library (an AttributeError, a failed assertion) passes unchanged, with its traceback.
"""

from __future__ import annotations

import functools
import inspect
import sys
import traceback
import types
import typing
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from .errors import (
    CheckpointError,
    ConfigError,
    DenseCtxError,
    FileError,
    InputError,
    MemoryBudgetError,
    MissingDependencyError,
    WeightsError,
    cause_of,
    shortened,
)

F = TypeVar("F", bound=Callable[..., Any])

_LIBRARIES: dict[str, type[DenseCtxError]] = {
    **dict.fromkeys(("PIL", "av", "h5py"), FileError),
    **dict.fromkeys(("httpcore", "httpx", "httpx2", "huggingface_hub", "requests", "urllib3"), WeightsError),
    **dict.fromkeys(("safetensors", "safetensors_rust"), CheckpointError),  # the second before 0.8
    "yaml": ConfigError,
}
_ADVICE: dict[type[DenseCtxError], str] = {
    FileError: "Check the path, its rights and the room on the disk",
    WeightsError: "Check the network (HF_HUB_OFFLINE, HF_HOME), or give a local path",
    MemoryBudgetError: "Take smaller images or batches, or set max_memory",
    MissingDependencyError: "Install it",
    CheckpointError: "Get the file again",
    ConfigError: "Correct it",
    InputError: "Check the arguments",
}
_BUGS = (NotImplementedError, RecursionError)
_OF_VALUES = (ValueError, RuntimeError, TypeError, IndexError, OverflowError)  # what libraries raise for bad arguments


def translated(error: Exception, doing: str, option: str = "") -> DenseCtxError | None:
    """The equivalent DenseCtxError; None for what looks like a bug of the library itself.

    option: how whoever is `doing` it is given a budget of memory, with {} for its size; "": not at all.
    """
    if isinstance(error, MemoryBudgetError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # an inner function has said what helps in terms of its own arguments
    elif isinstance(error, DenseCtxError):
        return error
    kinds = [(kind.__module__.partition(".")[0], kind.__name__) for kind in type(error).__mro__]
    if any(name == "TorchDynamoException" for _, name in kinds):
        return ConfigError(f"{doing}: the compiler failed: {cause_of(error)}. Leave compile out")
    ours = next((_LIBRARIES[module] for module, _ in kinds if module in _LIBRARIES), None)
    if isinstance(error, MemoryError) or any(name == "OutOfMemoryError" for _, name in kinds):
        ours = MemoryBudgetError
    elif ours is None and isinstance(error, ImportError):
        ours = MissingDependencyError
    elif ours is None and isinstance(error, OSError):
        ours = FileError
    elif ours is None and isinstance(error, _OF_VALUES) and not isinstance(error, _BUGS):
        ours = InputError
    if ours is None:
        return None
    advice = _device_advice(error, doing, option) if ours is MemoryBudgetError else None
    return ours(f"{doing}: {cause_of(error)}. {advice or _ADVICE[ours]}")


def _device_advice(error: Exception, doing: str, option: str) -> str | None:
    """What to do when an accelerator is out of memory, with the budget that it has; None for the host's memory."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(error, torch.OutOfMemoryError) or not torch.cuda.is_available():
        return None
    if doing == "train":
        return "Raise accumulate, which computes the same step in smaller parts, or lower batch_size"
    traceback.clear_frames(error.__traceback__)  # they hold what the failed call had allocated
    torch.cuda.empty_cache()
    free, total = (amount / 1e9 for amount in torch.cuda.mem_get_info())
    windows = f"{option.format(f'{0.9 * free:.2g}GB')} computes large images in windows that fit; or " if option else ""
    smaller = "images (image.short_side), which is another protocol" if doing == "evaluate" else "images"
    held = f"cuda:{torch.cuda.current_device()} has {free:.3g} GB of {total:.3g} free now"
    return f"{held}: {windows}take smaller {smaller}, or another device"


def gateway(function: F) -> F:
    """Let a function raise only DenseCtxError, and Python's TypeError for a call that does not fit its signature."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            if (better := _fault(error, function, args, kwargs)) is None:
                raise
            raise better from error.__cause__ if isinstance(error, MemoryBudgetError) else error

    return typing.cast(F, call)


def _fault(error: Exception, function: Callable[..., Any], args: Any, kwargs: Any) -> DenseCtxError | None:
    """The DenseCtxError for an error of a call; None for one that passes unchanged."""
    if isinstance(error, DenseCtxError) and not (isinstance(error, MemoryBudgetError) and error.__cause__):
        return None
    title = function.__qualname__.removesuffix(".__init__").removesuffix(".__post_init__")
    try:
        arguments = inspect.signature(function).bind(*args, **kwargs).arguments
    except TypeError:  # the call does not fit the signature
        return None
    if wrong := list(_wrong(function, arguments)):
        return InputError(f"{title}: {'; '.join(wrong)} ({cause_of(error)})")
    option = 'max_memory="{}"' if "max_memory" in inspect.signature(function).parameters else ""
    return None if _is_callers(error, function) else translated(error, title, option)


def _is_callers(error: Exception, function: Callable[..., Any]) -> bool:
    """Whether it passed through the user's own code, a callback: no module of dense_ctx, Python or a package."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        root, path = str(frame.f_globals.get("__name__")).partition(".")[0], frame.f_code.co_filename
        library = root.startswith("dense_ctx") or root in {*_LIBRARIES, *sys.stdlib_module_names, "None"} - {"__main__"}
        if not (library or path == inspect.getfile(function) or "site-packages" in path):
            return True
    return False


def _wrong(function: Callable[..., Any], given: Mapping[str, Any]) -> Iterator[str]:
    """Descriptions of the arguments that do not match their annotations."""
    from .config.reader import fits  # which has a gateway of its own

    for name, value in given.items():
        text = function.__annotations__.get(name)
        hint = _hint(text, function) if isinstance(text, str) else text
        if hint is not None and not fits(value, hint):
            plain = isinstance(value, (str, bytes, int, float, bool, type(None), list, tuple, dict))
            yield f"{name} is {text}; got {type(value).__name__} {shortened(repr(value) if plain else '', 80)}"


def _hint(text: str, function: Callable[..., Any]) -> Any:
    loaded = [vars(module) for name, module in list(sys.modules.items()) if name.startswith("dense_ctx")]
    names = ChainMap(getattr(function, "__globals__", {}), *loaded)  # some are imported for type checking alone
    try:
        alone = types.SimpleNamespace(__annotations__={"hint": text})
        return typing.get_type_hints(alone, {}, dict(names))["hint"]
    except Exception:  # a name of a module that is not loaded
        return None
