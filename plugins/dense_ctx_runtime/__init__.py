"""Exported models without torch: `OnnxModel` (numpy, Pillow and ONNX Runtime), and `Tracker`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .onnx_model import OnnxModel as OnnxModel
    from .tracker import Tracker as Tracker

__all__ = ["OnnxModel", "Tracker"]


def __getattr__(name: str) -> Any:
    if name == "OnnxModel":
        from .onnx_model import OnnxModel  # not before: it loads ONNX Runtime

        return OnnxModel
    if name == "Tracker":
        from .tracker import Tracker

        return Tracker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
