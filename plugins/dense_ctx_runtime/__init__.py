"""Exported models without torch: `OnnxModel`, by numpy, Pillow and ONNX Runtime."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .onnx_model import OnnxModel as OnnxModel

__all__ = ["OnnxModel"]


def __getattr__(name: str) -> Any:
    if name == "OnnxModel":
        from .onnx_model import OnnxModel  # not before: it loads ONNX Runtime

        return OnnxModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
