"""What an estimator is given: a list or an array of images, of feature maps, or a table of features."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from dense_ctx.errors import InputError

from .package import InputTypeError, validation


def images_of(images: Any) -> list[Any]:
    """Images, one by one: of a list (paths, PIL, arrays; any sizes), or of an array [N, H, W] or [N, H, W, C].

    Raises:
        InputError: something else, or none; an array [H, W, 3] or [H, W, 4], which is one image and not H of them.
    """
    form = "X is a list of images, or an array [N, H, W] or [N, H, W, C]"
    if isinstance(images, np.ndarray) and images.ndim == 2:
        raise InputError(
            f"{form}; got a table of {images.shape[0]} x {images.shape[1]}. If its rows are features, leave model out"
        )
    if sparse.issparse(images):
        raise InputError(f"{form}; got a sparse {type(images).__name__}, which is not supported")
    if isinstance(images, np.ndarray) and images.ndim == 3 and images.shape[2] in (3, 4):
        raise InputError(f"{form}; got one image {list(images.shape)}: put it in a list, [image]")
    if not isinstance(images, (list, tuple)) and not (
        isinstance(images, np.ndarray) and (images.ndim in (3, 4) or images.dtype.kind in "OU")
    ):
        shape = list(images.shape) if isinstance(images, np.ndarray) else ""
        raise InputError(f"{form}; got {type(images).__name__}{shape}")
    if not len(images):
        raise InputError("There are no images: expected at least one")
    return list(images)


def is_table(given: Any) -> bool:
    """Whether it is no list or array of feature maps [h, w, D], but a table, which scikit-learn checks."""
    if isinstance(given, (list, tuple)):
        return not (len(given) and isinstance(given[0], np.ndarray) and given[0].ndim == 3)
    return not (isinstance(given, np.ndarray) and given.ndim == 4)


def maps_of(given: Any) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
    """Feature maps float32 [h, w, D] of one width D, of a list (any h and w) or of an array [N, h, w, D].

    Raises:
        InputError: of several widths, without a value, or with NaN or infinity.
    """
    maps = [np.asarray(item) for item in given]
    for item in maps:
        if item.ndim != 3 or 0 in item.shape or item.dtype.kind not in "fiu" or item.shape[2] != maps[0].shape[2]:
            raise InputError(
                f"Feature maps are numbers [h, w, D] of one D; got {item.dtype} {list(item.shape)} and "
                f"{list(maps[0].shape)}"
            )
        if not np.isfinite(item).all():
            raise InputError("A feature map holds NaN or infinity")
    if not maps:
        raise InputError("There are no feature maps: expected at least one")
    return [item.astype(np.float32) for item in maps]


def required(targets: Any) -> Any:
    """Targets that are given."""
    if targets is None:
        raise InputError("It requires y to be passed, but the target y is None")
    return targets


def targets_of(values: Any, count: int) -> list[Any]:
    """One target for each image. Raises InputError: none, or another number."""
    values = required(values)
    if not isinstance(values, (list, tuple, np.ndarray)) or len(values) != count:
        number = len(values) if isinstance(values, (list, tuple)) or np.ndim(values) else f"a {type(values).__name__}"
        raise InputError(f"{count} images need as many targets; got {number}")
    return list(values)


def table_of(estimator: Any, given: Any, *, reset: bool) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Rows of features float32 [n, D], by scikit-learn's own check; `reset`: it also sets n_features_in_."""
    try:
        table: np.ndarray[Any, np.dtype[np.float32]] = validation.validate_data(
            estimator, given, reset=reset, dtype=np.float32
        )
    except (TypeError, ValueError) as error:
        kind = InputTypeError if isinstance(error, TypeError) else InputError
        raise kind(f"X is a table of numbers [n, D]: {' '.join(str(error).split())}") from error
    return table


def joined(results: list[Any], given: Any) -> Any:
    """An array where an array was given, else the list."""
    return np.stack(results) if isinstance(given, np.ndarray) and given.ndim > 1 else results
