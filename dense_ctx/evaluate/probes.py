"""The probe a protocol names: made for one seed, kept, and read back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from ..errors import CheckpointError, ConfigError, InputError
from ..files import new_file, read_tensors, write_tensors
from ..interfaces import FitContext, Probe, Task
from ..numerics import require_finite
from ..plugins import registry
from .protocol import Protocol
from .scorer import Scorer


def make_probe(protocol: Protocol, seed: int, classes: Sequence[str] = ()) -> Probe:
    """The probe a protocol names, told all that is known before its first batch.

    Args:
        classes: the data set's; () where they are not known yet: what can be refused without them, is.

    Raises:
        UnknownNameError, InputError: no such probe, arguments it does not take, or unseen classes that are none of the
            data set's.
        ConfigError: it cannot do what the protocol asks; see `dense_ctx.Probe.configure`.
        FileError: a file among its arguments.
    """
    unknown = [name for name in protocol.scoring.unseen if classes and name not in classes]
    if unknown:
        raise InputError(f"{protocol.id}: scoring.unseen names classes the data set has not: {', '.join(unknown)}")
    task: Task = "regression" if Scorer(protocol).target in ("depth", "normals") else "segmentation"
    steps = None if protocol.train is None else protocol.train.steps
    try:
        probe: Probe = registry().create("probe", protocol.probe.name, task=task, **protocol.probe.args)
        probe.configure(FitContext(tuple(classes), protocol.scoring.unseen, protocol.reads, steps, seed))
    except ConfigError as error:
        raise ConfigError(f"{protocol.id}: probe {protocol.probe.name!r}: {error}") from error
    return probe


def save_probe(probe: Probe, path: Path, extra: dict[str, Tensor] | None = None) -> None:
    """Write a probe's state, and further tensors, to a safetensors file, whole or not at all; raises FileError."""
    with new_file(path) as partial:
        write_tensors(partial, {k: v.contiguous() for k, v in {**probe.state_dict(), **(extra or {})}.items()}, {})


def load_probe_state(path: Path) -> dict[str, Tensor]:
    """Read what `save_probe` wrote.

    Raises:
        CheckpointError: the file is damaged.
        NonFiniteError: NaN or infinity in it.
    """
    try:
        tensors = read_tensors(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error}. Remove it to train the probe again") from error
    require_finite(f"The fitted probe {path}", "Remove it to train the probe again", **tensors)
    return tensors
