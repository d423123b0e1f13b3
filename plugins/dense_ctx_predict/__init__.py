"""Features and predictions for images, folders and videos: Predictor, and the commands features, predict, track."""

from typing import TYPE_CHECKING, Any

from dense_ctx.hookspecs import Register, hookimpl

if TYPE_CHECKING:
    from .predictor import LabelClass as LabelClass
    from .predictor import Predictor as Predictor
    from .tracking import track as track

__all__ = ["LabelClass", "Predictor", "track"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .predictor import LabelClass, Predictor  # not before: they load torch
    from .tracking import track

    return {"LabelClass": LabelClass, "Predictor": Predictor, "track": track}[name]


@hookimpl
def register_parts(register: Register) -> None:
    """Register the parts."""
    register("command", "features", "dense_ctx_predict.features_command:Features")
    register("command", "predict", "dense_ctx_predict.command:Predict")
    register("command", "track", "dense_ctx_predict.track_command:Track")
    register("probe", "head", "dense_ctx_predict.head:HeadProbe")
