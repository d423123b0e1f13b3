"""Tracker: where a run is recorded besides its log.jsonl; and those of Accelerate."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dense_ctx.files import read_json, write_json

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

PROJECT = "dense-ctx"
RUNS = "trackers.json"  # in the run's folder: the identifiers under which trackers know it
Value = bool | int | float | str | None


class Tracker(ABC):
    """Where a run is recorded. It is built before the run's weights are read, and opened, once, after.

    Only the first process has one. A method that raises later than `open` ends the record, not the run.
    """

    @abstractmethod
    def open(self, out: Path, step: int, config: Mapping[str, Value]) -> None:
        """Begin the record of the run in `out`, or go on with it, after `step` steps.

        Args:
            config: the run's configuration, flat: {"optimizer.lr": 0.001}.
        """

    @abstractmethod
    def log(self, values: Mapping[str, float], step: int) -> None:
        """Record finite numbers of a step."""

    @abstractmethod
    def close(self, failed: bool) -> None:
        """End the record, as that of a run which is complete, or of one that stopped or failed."""


class AccelerateTracker(Tracker):
    """One of Accelerate's trackers."""

    name: str  # in Accelerate
    inner: GeneralTracker

    @abstractmethod
    def arguments(self, out: Path, step: int) -> tuple[list[Any], dict[str, Any]]:
        """Of Accelerate's class."""

    def open(self, out: Path, step: int, config: Mapping[str, Value]) -> None:
        """Connect, and store the configuration."""
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        positional, keywords = self.arguments(out, step)
        self.inner = LOGGER_TYPE_TO_CLASS[self.name](*positional, **keywords)
        getattr(self.inner, "start", lambda: None)()  # older releases of Accelerate have started by now
        self.store(out, config)

    def store(self, out: Path, config: Mapping[str, Value]) -> None:
        """Store the configuration."""
        self.inner.store_init_configuration(dict(config))

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Pass the numbers on."""
        self.inner.log(dict(values), step=step)

    def close(self, failed: bool) -> None:
        """Finish; not all of Accelerate's trackers can say that a run has failed."""
        self.inner.finish()


def known_run(out: Path, tracker: str) -> str | None:
    """The identifier under which a tracker knows the run in `out`, of an earlier call."""
    file = out / RUNS
    value = read_json(file).get(tracker) if file.exists() else None
    return None if value is None else str(value)


def remember_run(out: Path, tracker: str, identifier: str) -> None:
    """Keep an identifier for `known_run`; raises FileError."""
    file = out / RUNS
    write_json(file, {**(read_json(file) if file.exists() else {}), tracker: identifier})


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Value]:
    """Nested mappings as one with dotted keys; lists as JSON."""
    result: dict[str, Value] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            result |= flat(value, f"{prefix}{key}.")
        else:
            plain = value is None or isinstance(value, (bool, int, float, str))
            result[f"{prefix}{key}"] = value if plain else json.dumps(value)
    return result
