"""Tensors on disk: read strictly, and in one file that carries the sha256 of everything in it.

Strict: a tensor that is missing, left over, of another shape or dtype, or holds NaN or infinity is named and refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import CheckpointError, FileError
from ..files import new_file, read_tensors, state_digest, write_tensors
from ..interfaces import Probe
from ..numerics import require_finite

# dtype and shape of a tensor; a letter in place of a length is the same number wherever it stands
Spec: TypeAlias = "tuple[torch.dtype, tuple[int | str, ...]]"

_SEAL = "sha256"  # in the header of a sealed file
_LISTED = 6  # faults in a message


def specs(tensors: Mapping[str, Tensor]) -> dict[str, Spec]:
    """Dtypes and shapes of tensors."""
    return {name: (value.dtype, tuple(value.shape)) for name, value in tensors.items()}


def misfits(shapes: Mapping[str, tuple[int, ...]], wanted: Mapping[str, Spec]) -> list[str]:
    """What is missing, left over or of another shape, in words."""
    faults = [f"missing {name}" for name in sorted(set(wanted) - set(shapes))]
    faults += [f"left over {name}" for name in sorted(set(shapes) - set(wanted))]
    lengths: dict[str, int] = {}
    for name in sorted(set(wanted) & set(shapes)):
        given, shape = shapes[name], wanted[name][1]
        for length, letter in zip(given, shape, strict=False):
            if isinstance(letter, str):
                lengths.setdefault(letter, length)
        expected = [lengths.get(length, length) if isinstance(length, str) else length for length in shape]
        if list(given) != expected:
            faults.append(f"{name} is {list(given)}, not {expected}")
    return faults


def refuse(faults: Sequence[str], complaint: str) -> None:
    """Raise CheckpointError with up to six faults, if there are any."""
    if faults:
        more = f" and {len(faults) - _LISTED} more" if len(faults) > _LISTED else ""
        raise CheckpointError(f"{complaint}: {'; '.join(fault[:200] for fault in faults[:_LISTED])}{more}")


def require_state(
    tensors: Mapping[str, Tensor], wanted: Mapping[str, Spec], complaint: str, *, cast: bool = False
) -> None:
    """Refuse tensors that are not exactly the wanted ones, all finite.

    Args:
        complaint: the error's first words.
        cast: any floating-point type will do for another one.

    Raises:
        CheckpointError: every tensor at fault is named, up to six.
    """
    faults = misfits({name: tuple(value.shape) for name, value in tensors.items()}, wanted)
    for name in sorted(set(wanted) & set(tensors)):
        given, dtype = tensors[name].dtype, wanted[name][0]
        if given != dtype and not (cast and given.is_floating_point and dtype.is_floating_point):
            faults.append(f"{name} is {given}, not {dtype}")
    refuse([*faults, *(f"{name} holds NaN or infinity" for name in nonfinite(tensors))], complaint)


def nonfinite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that hold NaN or infinity."""
    return [name for name, value in tensors.items() if value.is_floating_point() and not bool(value.isfinite().all())]


def stored(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as safetensors takes them: on the CPU, contiguous, none sharing memory with another."""
    return {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; raises CheckpointError where it is damaged."""
    try:
        return read_tensors(path)
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: {error}. Get or make it again") from error


def write_sealed(path: Path, tensors: Mapping[str, Tensor], words: Mapping[str, str] | None = None) -> Path:
    """Write one file of tensors and words, whole or not at all.

    Raises:
        NonFiniteError: NaN or infinity.
        FileError: it cannot be written.
    """
    content, words = stored(tensors), dict(words or {})
    require_finite(f"{path}, which is not written", "", **content)
    with new_file(path, faults=(SafetensorError,)) as partial:
        write_tensors(partial, content, {**words, _SEAL: _sealed(content, words)})
    return path


def read_sealed(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and words of a file that `write_sealed` wrote.

    Raises:
        FileError: there is none.
        CheckpointError: damaged, or not such a file.
        NonFiniteError: NaN or infinity in it.
    """
    if not path.is_file():
        raise FileError(f"There is no file {path}")
    tensors = read_state(path)
    with safe_open(str(path), framework="pt") as file:
        words = dict(file.metadata() or {})
    seal = words.pop(_SEAL, None)
    if seal is None:
        raise CheckpointError(f"{path} has no sha256 in its header: it is not of dense_ctx, or damaged. Make it again")
    if seal != _sealed(tensors, words):
        raise CheckpointError(f"{path} is damaged: its sha256 is not the one in its header. Get or make it again")
    require_finite(str(path), "Make it again", **tensors)
    return tensors, words


def _sealed(tensors: Mapping[str, Tensor], words: Mapping[str, str]) -> str:
    return hashlib.sha256((state_digest(tensors) + json.dumps(words, sort_keys=True)).encode()).hexdigest()


def load_probe(probe: Probe, tensors: Mapping[str, Tensor], where: str) -> None:
    """Give a probe a fitted state, which must be all of what it would save itself, and nothing else.

    Raises:
        CheckpointError: it is not.
    """
    complaint = f"{where} does not fit {type(probe).__name__}"
    try:
        probe.load_state_dict(tensors)
        again = probe.state_dict()
    except CheckpointError as error:
        raise CheckpointError(f"{complaint}: {error}") from error
    except Exception as error:  # of whatever kind a probe meets when tensors are not as it wrote them
        raise CheckpointError(f"{complaint}: {type(error).__name__}: {error}") from error
    require_state(tensors, specs(again), complaint)
