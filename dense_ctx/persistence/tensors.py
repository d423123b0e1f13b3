"""Tensors on disk: strict reading, and sealed files, which contain the sha256 of their content.

Strict: a tensor that is missing, unexpected, of another shape or dtype, or with NaN or infinity is refused by name.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import CheckpointError, cause_of
from ..files import new_file, regular_size, state_digest, tensor_shapes, write_tensors
from ..interfaces import Probe
from ..numerics import require_finite

# dtype and shape of a tensor; a letter stands for a length, the same in all shapes
Spec: TypeAlias = "tuple[torch.dtype, tuple[int | str, ...]]"

_SEAL = "sha256"  # in the header of a sealed file
_LISTED = 6  # faults listed in a message


def specs(tensors: Mapping[str, Tensor]) -> dict[str, Spec]:
    """Dtypes and shapes of tensors."""
    return {name: (value.dtype, tuple(value.shape)) for name, value in tensors.items()}


def misfits(
    actual: Mapping[str, tuple[torch.dtype | None, Sequence[Any]]], specs: Mapping[str, Spec], *, cast: bool = False
) -> list[str]:
    """The tensors that are missing, left over, or of another shape or dtype (None: any; `cast`: any of one kind)."""
    faults = [f"missing {name}" for name in sorted(set(specs) - set(actual))]
    faults += [f"left over {name}" for name in sorted(set(actual) - set(specs))]
    lengths: dict[str, int] = {}
    for name in sorted(set(specs) & set(actual)):
        (own, sides), (dtype, shape) = actual[name], specs[name]
        for length, letter in zip(sides, shape, strict=False):
            if isinstance(letter, str):
                lengths.setdefault(letter, length)
        expected = [lengths.get(length, length) if isinstance(length, str) else length for length in shape]
        if list(sides) != expected:
            faults.append(f"{name} is {list(sides)}, not {expected}")
        if own not in (None, dtype) and not (cast and own.is_floating_point and dtype.is_floating_point):
            faults.append(f"{name} is {own}, not {dtype}")
    return faults


def refuse(faults: Sequence[str], complaint: str) -> None:
    """Raise CheckpointError with up to six faults, if there are any."""
    if faults:
        more = f" and {len(faults) - _LISTED} more" if len(faults) > _LISTED else ""
        raise CheckpointError(f"{complaint}: {'; '.join(fault[:200] for fault in faults[:_LISTED])}{more}")


def require_state(
    tensors: Mapping[str, Tensor], specs: Mapping[str, Spec], complaint: str, *, cast: bool = False
) -> None:
    """Refuse tensors that do not match `specs` exactly or are not finite.

    Args:
        complaint: the beginning of the error's message.
        cast: accept any floating-point type for another one.

    Raises:
        CheckpointError: names up to six faulty tensors.
    """
    faults = misfits({name: (value.dtype, value.shape) for name, value in tensors.items()}, specs, cast=cast)
    refuse([*faults, *(f"{name} holds NaN or infinity" for name in nonfinite(tensors))], complaint)


def nonfinite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that hold NaN or infinity."""
    return [name for name, value in tensors.items() if value.is_floating_point() and not bool(value.isfinite().all())]


def stored(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies as safetensors requires them: on the CPU, contiguous, without shared memory."""
    return {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}


def read_with_metadata(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file; errors of `tensor_shapes`; ValueError also for damage."""
    regular_size(path)
    before, fault = os.stat(path), None
    try:
        tensor_shapes(path)
        with safe_open(str(path), framework="pt") as file:
            content = {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        fault = ValueError(str(error))
    after = os.stat(path)
    if (before.st_ino, before.st_mtime_ns) != (after.st_ino, after.st_mtime_ns):
        return read_with_metadata(path)  # replaced meanwhile: safe_open opens twice, the header and the tensors
    if fault is not None:
        raise fault
    return content


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; raises CheckpointError where it is damaged."""
    return _read(path)[0]


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        return read_with_metadata(path)
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: {error}. Get or make it again") from error


def write_sealed(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Path:
    """Write tensors and metadata to one file, atomically.

    Raises:
        NonFiniteError: NaN or infinity.
        FileError: it cannot be written.
    """
    content, metadata = stored(tensors), dict(metadata or {})
    require_finite(f"{path}, which is not written", "", **content)
    with new_file(path, faults=(SafetensorError,)) as partial:
        write_tensors(partial, content, {**metadata, _SEAL: _sealed(content, metadata)})
    return path


def read_sealed(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and metadata of a file that `write_sealed` wrote.

    Raises:
        FileError: there is none.
        CheckpointError: damaged, or not such a file.
        NonFiniteError: NaN or infinity.
    """
    tensors, metadata = _read(path)
    seal = metadata.pop(_SEAL, None)
    if seal is None:
        raise CheckpointError(f"{path} has no sha256 in its header: it is not of dense_ctx, or damaged. Make it again")
    if seal != _sealed(tensors, metadata):
        raise CheckpointError(f"{path} is damaged: its sha256 is not the one in its header. Get or make it again")
    require_finite(str(path), "Make it again", **tensors)
    return tensors, metadata


def _sealed(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    return hashlib.sha256((state_digest(tensors) + json.dumps(metadata, sort_keys=True)).encode()).hexdigest()


def load_probe(probe: Probe, tensors: Mapping[str, Tensor], where: str) -> None:
    """Restore a probe's fitted state, strictly: it must be exactly what the probe would save.

    Raises:
        CheckpointError: it does not fit.
    """
    complaint = f"{where} does not fit {type(probe).__name__}"
    try:
        probe.load_state_dict(tensors)
        again = probe.state_dict()
    except Exception as error:  # whatever a probe raises for tensors that it did not write
        raise CheckpointError(f"{complaint}: {cause_of(error)}") from error
    require_state(tensors, specs(again), complaint)
