"""Export a model to one file, checked against the model itself before the file gets its name."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dense_ctx_runtime.geometry import Size

from dense_ctx import registry
from dense_ctx.errors import ConfigError, DenseCtxError, InputError, cause_of
from dense_ctx.files import new_file
from dense_ctx.gateway import gateway
from dense_ctx.images import ImageLike

from .source import source_of
from .tracing import trace
from .verify import verify

if TYPE_CHECKING:
    from dense_ctx_predict.predictor import Predictor
    from dense_ctx_predict.tracking import MaskTracker

    from dense_ctx import InContext
    from dense_ctx.model import DenseModel

    from .base import Exporter


@gateway
def export(
    source: DenseModel | InContext | Predictor | MaskTracker,
    path: str | os.PathLike[str],
    format: str = "onnx",
    *,
    size: Size | Literal["dynamic"] = "dynamic",
    image: ImageLike | None = None,
    **options: Any,
) -> Path:
    """Write backbone, decoder and fitted head as one file for programs without dense_ctx.

    The written file is loaded and compared with the model at three sizes (or its one size), on random values and on
    a photograph; the differences are part of the file.

    Args:
        source: a model (its features, or what its trained head predicts), a fitted InContext with the probe ridge,
            linear, knn or ensemble, a Predictor, whose names and colours of classes go into the file, or a MaskTracker,
            for `dense_ctx_runtime.OnnxTracker`.
        path: of the file; what is there is replaced.
        format: "onnx", "torch-export", or another registered exporter.
        size: (H, W) of the images, or "dynamic": any.
        image: the photograph of the check; default the first frame of the demo's clip (extra "demo").
        **options: of the exporter: opset (18 to 23; default 20) of "onnx".

    Returns:
        The path.

    Raises:
        InputError: the suffix of another format, or a size that is none.
        ConfigError: it cannot be exported, or the file's results are not the model's; the reason is in the message,
            and nothing is left at `path`.
        NotFittedError, MissingDependencyError, FileError.
    """
    exporter: Exporter = registry().create("exporter", format, **options)
    return exporter(source, Path(path), size=size, image=image)


def export_with(
    exporter: Exporter,
    given: DenseModel | InContext | Predictor | MaskTracker,
    path: Path,
    size: Size | str,
    image: ImageLike | None,
) -> Path:
    """`export` with an exporter."""
    sides = None if size == "dynamic" else _checked(size)
    exporter.require_suffix(path)
    source = source_of(given, sides, exporter.opset)
    with new_file(path, f"the exported model {path}") as partial:
        try:
            program, inputs = trace(source.graph, sides)
            names = list(source.graph.names[: len(program.graph_signature.user_outputs)])
            graph = exporter.convert(program, inputs, names)
            if source.facts.track is not None:
                graph = exporter.with_votes(graph, source.facts)
            exporter.write(graph, source.facts, partial)
        except DenseCtxError:
            raise
        except Exception as error:  # PyTorch's exporters raise whatever they meet
            raise ConfigError(f"This model cannot be exported{_advice(sides)}: {cause_of(error)}") from error
        checks = verify(source, exporter.open(partial), image, _advice(sides))
        exporter.write(graph, replace(source.facts, verified=tuple(checks)), partial)
    return path


def _checked(size: Any) -> Size:
    if not isinstance(size, (tuple, list)) or len(size) != 2 or not all(type(s) is int and s > 0 for s in size):
        raise InputError(f'size={size!r:.40} is not (H, W) in pixels, nor "dynamic"')
    return size[0], size[1]


def _advice(size: Size | None) -> str:
    return "" if size else " for images of any size (with size=(H, W), it may be)"
