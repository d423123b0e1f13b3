"""The probe a protocol names: made for one seed, kept, and read back."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from torch import Tensor

from ..checkpoint import write_tensors
from ..config import Part
from ..errors import CheckpointError, ConfigError
from ..files import new_file
from ..interfaces import Probe, Task
from ..plugins import registry
from ..text import RANDOM, TextEmbeddings
from .protocol import Protocol


def check_text(protocol: Protocol) -> None:
    """Refuse a protocol whose probe reads text embeddings and is given none, before anything is computed or written.

    Raises:
        ConfigError: no file is named.
        FileError: the file is missing, or none of text embeddings.
    """
    entry, _ = registry().get("probe", protocol.probe.name)
    if "embeddings" not in _arguments(registry().resolve(entry, Probe)):
        return
    path = protocol.probe.args.get("embeddings")
    if path is None:
        data = protocol.data.name
        raise ConfigError(
            f"{protocol.id} needs text embeddings of the classes. Make them once with `dense-ctx text {data} --data "
            "ROOT --out text.safetensors` and set probe.args.embeddings=text.safetensors; "
            "probe.args.embeddings=random measures random directions instead, from which no unseen class can be found"
        )
    if path != RANDOM:
        TextEmbeddings.load(path)


def make_probe(part: Part, task: Task, seed: int, **args: Any) -> Probe:
    """Build it; the seed goes to every probe that names one among its arguments, below the protocol's own.

    Raises:
        UnknownNameError, InputError: no such probe, or arguments it does not take.
    """
    entry, _ = registry().get("probe", part.name)
    target = registry().resolve(entry, Probe)
    seeded = {"seed": seed} if "seed" in _arguments(target) else {}
    made: Probe = registry().create("probe", part.name, base=Probe, task=task, **{**seeded, **part.args, **args})
    return made


def _arguments(target: Any) -> set[str]:
    """Names of what a probe takes; a subclass may pass its options on, so what it inherits from counts too."""
    inherited = target.__mro__ if isinstance(target, type) else ()
    makers = [vars(cls)["__init__"] for cls in inherited if "__init__" in vars(cls)] or [target]
    return {name for maker in makers for name in inspect.signature(maker).parameters}


def save_probe(probe: Probe, path: Path, extra: dict[str, Tensor] | None = None) -> None:
    """Write a probe's state, and further tensors, to a safetensors file, whole or not at all; raises FileError."""
    with new_file(path) as partial:
        write_tensors(partial, {k: v.contiguous() for k, v in {**probe.state_dict(), **(extra or {})}.items()}, {})


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
