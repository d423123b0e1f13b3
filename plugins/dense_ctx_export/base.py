"""Exporter: a graph and what it is, to a file of one format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dense_ctx.errors import ConfigError, InputError

if TYPE_CHECKING:
    from dense_ctx_predict.predictor import Predictor
    from dense_ctx_predict.tracking import MaskTracker
    from dense_ctx_runtime.facts import Facts
    from dense_ctx_runtime.graph_model import GraphModel
    from torch import Tensor
    from torch.export import ExportedProgram

    from dense_ctx import InContext
    from dense_ctx.images import ImageLike
    from dense_ctx.interfaces import Size
    from dense_ctx.model import DenseModel

_FORMATS = {".onnx": "onnx", ".pt2": "torch-export"}  # by suffix


class Exporter(ABC):
    """Writes one format; its registered name is `format` of `export`."""

    opset: int | None = None  # of ONNX
    suffix: str | None = None  # of its files; that of another format is refused

    def __call__(
        self,
        source: DenseModel | InContext | Predictor | MaskTracker,
        path: Path,
        *,
        size: Size | str = "dynamic",
        image: ImageLike | None = None,
    ) -> Path:
        """Export a model; arguments and errors as `dense_ctx_export.export`."""
        from .one_file import export_with

        return export_with(self, source, path, size, image)

    def require_suffix(self, path: Path) -> None:
        """Raise InputError where the name says another format than the one that is written."""
        suffix = path.suffix.lower()
        if suffix in _FORMATS and suffix != self.suffix:
            raise InputError(
                f"{path} has the suffix of the format {_FORMATS[suffix]}, and another one is written: give "
                f'--format {_FORMATS[suffix]} (format="{_FORMATS[suffix]}"), or another name'
            )

    @abstractmethod
    def convert(self, program: ExportedProgram, inputs: Mapping[str, Tensor], outputs: list[str]) -> Any:
        """The graph in this format, in memory.

        Args:
            program: with inputs of these names. outputs: their names.

        Raises:
            Exception: it cannot be had; becomes ConfigError with the reason.
        """

    def with_votes(self, graph: Any, facts: Facts) -> Any:
        """A graph of a frame's keys with the propagation of masks, which `Facts.track` describes.

        Raises:
            ConfigError: this format has no place for it.
        """
        raise ConfigError('Tracking is exported to "onnx" only: this format has no loop over the parts of a frame')

    @abstractmethod
    def write(self, graph: Any, facts: Facts, path: Path) -> None:
        """Write the graph with its facts."""

    @abstractmethod
    def open(self, path: Path) -> GraphModel:
        """Load what `write` wrote."""
