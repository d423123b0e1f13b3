"""scikit-learn, which not every installation has. It must be there to import any of the estimators.

Raises:
    MissingDependencyError: it is not installed. PluginError: it fails at import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dense_ctx.containment import optional_package
from dense_ctx.errors import InputError
from dense_ctx.errors import NotFittedError as OwnNotFittedError

if TYPE_CHECKING:
    from sklearn import base, exceptions, metrics
    from sklearn.utils import multiclass, validation
else:
    WHAT, INSTALL = "An estimator of dense_ctx_sklearn", '"dense-ctx[sklearn]"'
    base = optional_package("sklearn.base", WHAT, INSTALL)
    exceptions = optional_package("sklearn.exceptions", WHAT, INSTALL)
    metrics = optional_package("sklearn.metrics", WHAT, INSTALL)
    multiclass = optional_package("sklearn.utils.multiclass", WHAT, INSTALL)
    validation = optional_package("sklearn.utils.validation", WHAT, INSTALL)

__all__ = ["InputTypeError", "NotFittedError", "base", "metrics", "multiclass", "validation"]


class NotFittedError(OwnNotFittedError, exceptions.NotFittedError):  # type: ignore[misc]
    """predict or transform was called before fit; dense_ctx's error and scikit-learn's."""


class InputTypeError(InputError, TypeError):
    """An input of a type that is no number; dense_ctx's error and the one that scikit-learn expects."""
