"""An exported ONNX file, run by ONNX Runtime."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dense_ctx.containment import optional_package
from dense_ctx.errors import CheckpointError, FileError, InputError
from dense_ctx.files import regular_size

from .facts import FACTS, read_facts
from .geometry import Array
from .graph_model import GraphModel

SEAL = b"dense_ctx.sha256\x12\x40"  # the key of the metadata, and the beginning of its value of 64 digits
BLANK = b"0" * 64
INSTALL = '"dense-ctx[onnx]" (or dense-ctx-runtime, without torch)'


def digest(content: bytes) -> tuple[str, str] | None:
    """The sha256 that a file says it has, and the one it has; None: it says none."""
    start = content.rfind(SEAL)
    if start < 0:
        return None
    start += len(SEAL)
    own = hashlib.sha256(content[:start] + BLANK + content[start + len(BLANK) :]).hexdigest()
    return content[start : start + len(BLANK)].decode("ascii", "replace"), own


class OnnxModel(GraphModel):
    """Run what `model.export(path)` or `dense-ctx export` wrote; needs no torch.

    Args:
        path: the .onnx file.
        threads: of ONNX Runtime; None: one for each core.
        providers: of ONNX Runtime, such as ["CUDAExecutionProvider"]; default the CPU's.

    Raises:
        FileError: missing, or not a regular file.
        CheckpointError: damaged, not written by dense_ctx, or of another version.
        MissingDependencyError: ONNX Runtime is not installed.
    """

    def __init__(
        self, path: str | os.PathLike[str], threads: int | None = None, providers: Sequence[str] | None = None
    ) -> None:
        path = Path(path)
        regular_size(path)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise FileError(f"Cannot read {path}: {error}") from None
        seal = digest(content)
        if seal is not None and seal[0] != seal[1]:
            raise CheckpointError(f"{path} is damaged: its sha256 is not the one written into it. Get the file again")
        self._options = _runtime().RunOptions()
        self._options.only_execute_path_to_fetches = True
        self._session = _session(content, path, threads, providers)
        metadata = self._session.get_modelmeta().custom_metadata_map
        if seal is None or FACTS not in metadata:
            raise CheckpointError(
                f"{path} is an ONNX file, and not one that dense_ctx wrote (no metadata): write it with "
                "`dense-ctx export`"
            )
        self.facts = read_facts(metadata[FACTS], str(path))
        self._output_names = [item.name for item in self._session.get_outputs()]

    def run(self, inputs: Mapping[str, Array], only: Sequence[str] | None = None) -> dict[str, Array]:
        """The graph's outputs by name.

        Args:
            only: compute these outputs, and no more; None: all.
        """
        names = list(only or self._output_names)
        return dict(zip(names, self._session.run(names, dict(inputs), self._options), strict=True))


def _runtime() -> Any:
    return optional_package("onnxruntime", "OnnxModel", INSTALL)


def _session(content: bytes, path: Path, threads: int | None, providers: Sequence[str] | None) -> Any:
    runtime = _runtime()
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    # from the second image of a size on it would hold a block for the forward beside the arena's own: twice as much
    options.enable_mem_pattern = False
    if threads is not None:
        if threads < 1:
            raise InputError(f"threads={threads} is not at least 1")
        options.intra_op_num_threads = threads
    wanted = list(providers or ["CPUExecutionProvider"])
    if missing := [name for name in wanted if name not in runtime.get_available_providers()]:
        raise InputError(f"ONNX Runtime here has no {missing[0]}: {', '.join(runtime.get_available_providers())}")
    try:
        return runtime.InferenceSession(content, options, providers=wanted)
    except Exception as error:  # ONNX Runtime's own classes, which derive from Exception alone
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path} is damaged or no ONNX file ({len(content):,} bytes): {reason}") from None
