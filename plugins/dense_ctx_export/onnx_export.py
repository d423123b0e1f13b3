"""The format "onnx": one file for ONNX Runtime, with its facts and a sha256 inside."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path

import onnx
import torch
from dense_ctx_runtime.facts import FACTS, Facts
from dense_ctx_runtime.onnx_model import BLANK, SEAL, OnnxModel
from dense_ctx_runtime.windows import grid_of, tiles
from torch import Tensor
from torch.export import ExportedProgram

from dense_ctx.errors import ConfigError, InputError

from .base import Exporter
from .votes import attach_votes

_MOST = 2_000_000_000  # bytes: protobuf's limit is 2 GiB


class OnnxExporter(Exporter):
    """Writes ONNX.

    Args:
        opset: of the operators, 18 to 23.
    """

    suffix = ".onnx"

    def __init__(self, opset: int = 20) -> None:
        if opset not in range(18, 24):
            raise InputError(f"opset={opset}: expected 18 to 23 (resizing with antialiasing came with 18)")
        self.opset: int = opset

    def convert(self, program: ExportedProgram, inputs: Mapping[str, Tensor], outputs: list[str]) -> onnx.ModelProto:
        """The program in ONNX's operators."""
        logger = logging.getLogger("torch.onnx")
        level = logger.level
        logger.setLevel(logging.ERROR)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                converted = torch.onnx.export(
                    program, tuple(inputs.values()), dynamo=True, opset_version=self.opset, verbose=False,
                    input_names=list(inputs), output_names=outputs, external_data=False,
                )  # fmt: skip
        finally:
            logger.setLevel(level)
        if converted is None:
            raise ConfigError("PyTorch's exporter gave no ONNX program")
        return converted.model_proto

    def with_votes(self, graph: onnx.ModelProto, facts: Facts) -> onnx.ModelProto:
        """The graph of a frame's keys with the propagation of masks."""
        tables = None
        if facts.track and facts.size is not None:
            tables = tiles(grid_of(facts.size, facts.track["stride"]), facts.track["size_mask_neighborhood"])
        attach_votes(graph, facts.track or {}, facts.dim, tables)
        return graph

    def write(self, graph: onnx.ModelProto, facts: Facts, path: Path) -> None:
        """Write the graph with its facts, sealed."""
        del graph.metadata_props[:]
        _set(graph, FACTS, facts.to_json())
        _set(graph, SEAL.partition(b"\x12")[0].decode(), BLANK.decode())
        if graph.ByteSize() > _MOST:
            raise ConfigError(f"The graph has {graph.ByteSize():,} bytes; an ONNX file holds at most {_MOST:,}")
        path.write_bytes(sealed(graph.SerializeToString()))

    def open(self, path: Path) -> OnnxModel:
        """Load it."""
        return OnnxModel(path)


def sealed(content: bytes) -> bytes:
    """A file's content with its own sha256 in the place that was left blank for it."""
    start = content.rindex(SEAL + BLANK) + len(SEAL)
    value = hashlib.sha256(content).hexdigest().encode()
    return content[:start] + value + content[start + len(BLANK) :]


def _set(graph: onnx.ModelProto, key: str, value: str) -> None:
    entry = graph.metadata_props.add()
    entry.key, entry.value = key, value
