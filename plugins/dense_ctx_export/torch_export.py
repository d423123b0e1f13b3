"""The format "torch-export": a program of torch.export (.pt2), for programs with torch and without dense_ctx."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dense_ctx_runtime.facts import FACTS, Facts, read_facts
from dense_ctx_runtime.geometry import Array
from dense_ctx_runtime.graph_model import GraphModel
from torch import Tensor
from torch.export import ExportedProgram

from dense_ctx.errors import CheckpointError, cause_of
from dense_ctx.files import regular_size

from .base import Exporter


class TorchExporter(Exporter):
    """Writes a program of torch.export."""

    suffix = ".pt2"

    def __init__(self) -> None:
        self._outputs: list[str] = []

    def convert(
        self, program: ExportedProgram, inputs: Mapping[str, Tensor], outputs: list[str]
    ) -> tuple[ExportedProgram, list[str]]:
        """The program as it is, and the outputs' names, which it does not hold."""
        return program, outputs

    def write(self, graph: tuple[ExportedProgram, list[str]], facts: Facts, path: Path) -> None:
        """Write the program, and beside it in the archive its facts and the outputs' names."""
        extra = {f"{FACTS}.json": facts.to_json(), f"{FACTS}.outputs": " ".join(graph[1])}
        program = graph[0]
        program.example_inputs = None  # torch would write the example as a pickle
        torch.export.save(program, path, extra_files=extra)

    def open(self, path: Path) -> TorchExportModel:
        """Load it."""
        return TorchExportModel(path)


class TorchExportModel(GraphModel):
    """Run a .pt2 file; the calls are those of `dense_ctx_runtime.OnnxModel`. Open only files that you trust: PyTorch
    rebuilds the program from what the file says.

    Raises:
        FileError: missing, or not a regular file.
        CheckpointError: damaged, not written by dense_ctx, or of another version.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        path = Path(path)
        regular_size(path)
        extra: dict[str, Any] = {f"{FACTS}.json": "", f"{FACTS}.outputs": ""}
        try:
            with zipfile.ZipFile(path) as archive:  # PyTorch does not look at the sums in it
                if (changed := archive.testzip()) is not None:
                    raise ValueError(f"{changed} is not what was written")
            program = torch.export.load(path, extra_files=extra)
        except Exception as error:  # of many kinds
            raise CheckpointError(f"{path} is damaged or no program of torch.export: {cause_of(error)}") from None
        if not extra[f"{FACTS}.json"]:
            raise CheckpointError(
                f"{path} is a program that dense_ctx did not write: write it with `dense-ctx export --format "
                "torch-export`"
            )
        self.facts = read_facts(extra[f"{FACTS}.json"], str(path))
        self._names = extra[f"{FACTS}.outputs"].split()
        self._module = program.module()

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The graph's outputs by name."""
        with torch.inference_mode():
            results = self._module(*(torch.from_numpy(np.ascontiguousarray(value)) for value in inputs.values()))
        return {name: value.numpy() for name, value in zip(self._names, results, strict=True)}
