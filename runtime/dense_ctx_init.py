"""The part of dense_ctx that exported models need; the rest comes with the distribution dense-ctx."""

from typing import Any

from .errors import DenseCtxError

__all__ = ["DenseCtxError"]


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    raise AttributeError(
        f"dense-ctx-runtime has no {name!r}: it only runs exported models. For the whole library install dense-ctx "
        "in its place (pip uninstall dense-ctx-runtime; pip install dense-ctx)"
    )
