"""The probe a protocol names: made for one seed, kept, and read back."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from torch import Tensor

from ..checkpoint import write_tensors
from ..config import Part
from ..errors import CheckpointError
from ..interfaces import Probe, Task
from ..plugins import registry


def make_probe(part: Part, task: Task, seed: int, **args: Any) -> Probe:
    """Build it; the seed goes to every probe that names one among its arguments, below the protocol's own.

    Raises:
        UnknownNameError, InputError: no such probe, or arguments it does not take.
    """
    entry, _ = registry().get("probe", part.name)
    target = registry().resolve(entry, Probe)
    # a subclass may pass its options on: look at what it inherits from too
    inherited = target.__mro__ if isinstance(target, type) else ()
    makers = [vars(cls)["__init__"] for cls in inherited if "__init__" in vars(cls)] or [target]
    seeded = {"seed": seed} if any("seed" in inspect.signature(maker).parameters for maker in makers) else {}
    made: Probe = registry().create("probe", part.name, base=Probe, task=task, **{**seeded, **part.args, **args})
    return made


def save_probe(probe: Probe, path: Path, extra: dict[str, Tensor] | None = None) -> None:
    """Write a probe's state, and further tensors, to a safetensors file, whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(partial, {k: v.contiguous() for k, v in {**probe.state_dict(), **(extra or {})}.items()}, {})
    partial.replace(path)


def load_probe_state(path: Path) -> dict[str, Tensor]:
    """Read what `save_probe` wrote.

    Raises:
        CheckpointError: the file is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(str(path))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged: {error}. Remove it to train the probe again") from error
