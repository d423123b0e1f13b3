"""The probe a protocol names, made for one seed."""

from __future__ import annotations

import inspect
from typing import Any

from ..config import Part
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
