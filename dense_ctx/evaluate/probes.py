"""The probe a protocol names, made for one seed."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import ConfigError, InputError
from ..interfaces import FitContext, Probe, Task
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
