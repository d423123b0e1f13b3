"""Estimators of scikit-learn: PixelClassifier, PixelRegressor, DenseTransformer. It registers no part.

They need the extra `sklearn` (docs/sklearn.md).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .classifier import PixelClassifier as PixelClassifier
    from .regressor import PixelRegressor as PixelRegressor
    from .transformer import DenseTransformer as DenseTransformer

__all__ = ["DenseTransformer", "PixelClassifier", "PixelRegressor"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .classifier import PixelClassifier  # not before: they load torch
    from .regressor import PixelRegressor
    from .transformer import DenseTransformer

    return {
        "DenseTransformer": DenseTransformer,
        "PixelClassifier": PixelClassifier,
        "PixelRegressor": PixelRegressor,
    }[name]
