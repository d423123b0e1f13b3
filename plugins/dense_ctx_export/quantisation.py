"""int8 of an exported ONNX file: ONNX Runtime's static quantisation, with the user's images for calibration."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from dense_ctx_runtime.geometry import Array
from dense_ctx_runtime.graph_model import spreads
from dense_ctx_runtime.onnx_model import OnnxModel
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from dense_ctx.errors import ConfigError, DenseCtxError, InputError, cause_of
from dense_ctx.files import new_file
from dense_ctx.gateway import gateway
from dense_ctx.persistence.pixels import read_pixels

from .onnx_export import OnnxExporter

_FEWEST = 4
_SCOPES = "pkg.torch.onnx.name_scopes"  # of a node: the modules it comes from


@gateway
def quantise(path: str | os.PathLike[str], images: Sequence[Any], out: str | os.PathLike[str]) -> Path:
    """Write the int8 version of an exported file: backbone and decoder in int8, the head in float32.

    How each channel of the deepest map varies over each calibration image goes into the file: `OnnxModel` warns (or
    refuses: `strict=True`) where an image is far from all of them.

    Args:
        path: an .onnx file that `export` wrote.
        images: at least 4 different ones that look like those it will see: paths, PIL images or arrays.
        out: the file to write.

    Returns:
        `out`.

    Raises:
        InputError: too few images, or one twice; the file is int8 already.
        ConfigError: ONNX Runtime cannot quantise it.
        FileError, CheckpointError: an image or the file cannot be read.
    """
    model, out = OnnxModel(path), Path(out)
    if model.facts.quantisation is not None:
        raise InputError(f"{path} is int8 already: give the float32 file")
    if model.facts.track is not None:
        raise InputError(f"{path} carries masks through clips, for which images do not calibrate it: leave it float32")
    if len(images) < _FEWEST:
        raise InputError(f"{len(images)} calibration images; expected at least {_FEWEST}, of what the model will see")
    _refuse_repeated(images)
    exporter = OnnxExporter(model.facts.opset or 20)
    exporter.require_suffix(out)
    graph = onnx.load(path)
    nodes = [node.name for node in graph.graph.node if node.op_type in ("Conv", "MatMul", "Gemm") and _inside(node)]
    if not nodes:
        raise ConfigError(f"{path} has no convolution or matrix product in its backbone and decoder to quantise")
    with new_file(out, f"the int8 model {out}") as partial, tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "int8.onnx"
        try:
            quantize_static(
                graph, str(raw), _Calibration(model, images), quant_format=QuantFormat.QDQ, per_channel=True,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, nodes_to_quantize=nodes,
                op_types_to_quantize=["Conv", "MatMul", "Gemm"],
            )  # fmt: skip
        except DenseCtxError:
            raise
        except Exception as error:  # of many kinds
            raise ConfigError(f"ONNX Runtime cannot quantise {path}: {cause_of(error)}") from error
        quantised = onnx.load(raw)
        exporter.write(quantised, replace(model.facts, verified=()), partial)
        facts = replace(model.facts, verified=(), quantisation=_calibration(exporter.open(partial), images))
        exporter.write(quantised, facts, partial)
    return out


def _refuse_repeated(images: Sequence[Any]) -> None:
    """An image given twice adds nothing to the ranges."""
    first: dict[bytes, str] = {}
    repeated: list[str] = []
    for number, image in enumerate(images, 1):
        pixels = read_pixels(image)
        name = str(image) if isinstance(image, (str, os.PathLike)) else f"image {number}"
        earlier = first.setdefault(hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).digest(), name)
        if len(first) + len(repeated) < number:
            repeated.append(f"{name} is {earlier}" if name != earlier else f"{name} is given twice")
    if repeated:
        raise InputError(
            f"{len(repeated)} of {len(images)} calibration images repeat another one: {', '.join(repeated[:4])}"
            + (" ..." if len(repeated) > 4 else "")
            + f". Give each once, at least {_FEWEST}"
        )


def _inside(node: onnx.NodeProto) -> bool:
    """Whether a node belongs to the backbone or the decoder."""
    scopes = next((item.value for item in node.metadata_props if item.key == _SCOPES), "")
    return "backbone" in scopes or "decoder" in scopes


class _Calibration(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, model: OnnxModel, images: Sequence[Any]) -> None:
        self._inputs = (model.inputs(read_pixels(image)[None]) for image in images)

    def get_next(self) -> Mapping[str, Array] | None:
        """The graph's inputs for the next image."""
        return next(self._inputs, None)


def _calibration(model: OnnxModel, images: Sequence[Any]) -> dict[str, Any]:
    """How the channels of the deepest map vary over each image, the largest distance of one to the nearest other, and
    the fewest positions of a map.
    """
    maps = [model.run(model.inputs(read_pixels(image)[None]))["patches"][0] for image in images]
    scales = np.stack([spreads(item) for item in maps]).round(4)
    nearest = [np.linalg.norm(np.delete(scales, index, 0) - own, axis=1).min() for index, own in enumerate(scales)]
    return {
        "apart": max(float(max(nearest)), 1e-3),
        "positions": min(item[0].size for item in maps),
        "spreads": scales.astype(float).round(4).tolist(),
    }
