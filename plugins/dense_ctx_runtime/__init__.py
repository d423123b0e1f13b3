"""Exported models without torch: `OnnxModel` and `OnnxTracker`, by numpy, Pillow and ONNX Runtime."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .onnx_model import OnnxModel as OnnxModel
    from .tracker import OnnxTracker as OnnxTracker

__all__ = ["OnnxModel", "OnnxTracker"]


def __getattr__(name: str) -> Any:
    if name == "OnnxModel":
        from .onnx_model import OnnxModel  # not before: it loads ONNX Runtime

        return OnnxModel
    if name == "OnnxTracker":
        from .tracker import OnnxTracker

        return OnnxTracker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
