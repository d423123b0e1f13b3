"""Models as one file for other programs: `model.export`, `export`, command `dense-ctx export`."""

from typing import TYPE_CHECKING, Any

from dense_ctx.hookspecs import DefineKind, Register, hookimpl

if TYPE_CHECKING:
    from .one_file import export as export
    from .torch_export import TorchExportModel as TorchExportModel

__all__ = ["TorchExportModel", "export"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "export":
        from .one_file import export  # not before: it loads torch

        return export
    from .torch_export import TorchExportModel

    return TorchExportModel


@hookimpl
def define_kinds(define: DefineKind) -> None:
    """Formats of exported models."""
    define("exporter", "dense_ctx_export.base:Exporter")


@hookimpl
def register_parts(register: Register) -> None:
    """Register the parts."""
    register("command", "export", "dense_ctx_export.command:Export")
    register("exporter", "onnx", "dense_ctx_export.onnx_export:OnnxExporter", extra="onnx")
    register("exporter", "torch-export", "dense_ctx_export.torch_export:TorchExporter")
