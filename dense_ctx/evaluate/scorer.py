"""The metric of a protocol, with its results checked: errors name the metric and its plugin."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any, cast

from ..errors import ConfigError, InputError, PluginError
from ..interfaces import Metric, Scores
from ..plugins import blamed, registry
from .protocol import Protocol
from .sections import Scoring

# The fields of a protocol's `scoring` that a task's own metric gets. Any other metric gets `scorer.args` alone.
OF_SCORING = {
    "segmentation": ("matching", "absent"),
    "zero-shot": ("matching", "absent", "unseen"),
    "depth": ("low", "high", "align"),
}
OF_EVERY_EVALUATION = ("mask_side", "unseen")  # the size at which is scored, and classes for the probe


class Scorer:
    """Creates and calls the metric of a protocol: `scorer`, or the metric registered under its `task`.

    Attributes:
        target: kind of data set. higher_is_better: whether a larger headline is better.

    Raises:
        UnknownNameError: no such metric.
        ConfigError: it does not compute the protocol's headline, or does not read what `scoring` sets.
        PluginError: the registered object is not a Metric class with its attributes.
    """

    def __init__(self, protocol: Protocol) -> None:
        self.protocol = protocol
        self.name = protocol.task if protocol.scorer is None else protocol.scorer.name
        entry, _ = registry().get("metric", self.name)
        self.title = f"metric {self.name!r} ({entry.owner})"
        metric = registry().resolve(entry)
        self.target: str = getattr(metric, "target", "")
        scores = getattr(metric, "higher_is_better", None)
        if not isinstance(metric, type) or not self.target or not scores:
            raise PluginError(f"{self.title} is not a class with `target` and `higher_is_better`, as a Metric has them")
        if protocol.metric not in scores:
            raise ConfigError(
                f"{protocol.id}: metric {protocol.metric!r} is not computed by {self.name}; it has {', '.join(scores)}"
            )
        self.higher_is_better: bool = scores[protocol.metric]
        self.args = self._args()

    def _args(self) -> dict[str, Any]:
        protocol = self.protocol
        fields = OF_SCORING.get(protocol.task, ()) if protocol.scorer is None else ()
        for name, default in vars(Scoring()).items():
            if getattr(protocol.scoring, name) != default and name not in (*fields, *OF_EVERY_EVALUATION):
                raise ConfigError(
                    f"{protocol.id}: scoring.{name} is set, and {self.title} is not given it; leave it out"
                    + ("" if protocol.scorer is None else ", or set what the metric takes in scorer.args")
                )
        if protocol.scorer is not None:
            return dict(protocol.scorer.args)
        return {name: getattr(protocol.scoring, name) for name in fields}

    def new(self, classes: Sequence[str] = ()) -> Metric:
        """An empty accumulator.

        Args:
            classes: the data set's.

        Raises:
            InputError: arguments that the metric does not take, or a data set without what it needs.
        """
        with self.blamed():
            return cast(Metric, registry().create("metric", self.name, classes=tuple(classes), **self.args))

    def rehearse(self, classes: Sequence[str] = ()) -> None:
        """Create an empty metric and merge its state: a faulty one fails before any work."""
        with self.blamed():
            self.new(classes).merge(self.state(self.new(classes)))

    def state(self, metric: Metric) -> Any:
        """As `Metric.state`, as JSON gives it back."""
        with self.blamed():
            state = metric.state()
            stored = json.loads(json.dumps(state, allow_nan=False))
            if stored != state:
                raise TypeError("state(): JSON gives back other values; it has no tuples, and no keys but str")
            return stored

    def compute(self, metric: Metric) -> Scores:
        """As `Metric.compute`, with the headline among its values."""
        with self.blamed():
            scores = metric.compute()
            if not isinstance(scores, Scores):
                raise TypeError(f"compute() gave a {type(scores).__name__}, not Scores")
            headline = self.protocol.metric
            if headline not in scores.values:
                raise ValueError(f"compute(): {headline!r} is not among its values {', '.join(scores.values)}")
            if not math.isfinite(scores.values[headline]):
                raise ValueError(f"compute(): the headline {headline!r} is {scores.values[headline]}")
            return Scores({key: float(value) for key, value in scores.values.items()}, scores.parts, scores.counts)

    def headline(self, metric: Metric) -> float | None:
        """The protocol's score of what a metric has seen so far; None where it is not defined."""
        with self.blamed(), suppress(InputError):
            value = float(metric.compute().values[self.protocol.metric])
            return value if math.isfinite(value) else None
        return None

    def blamed(self) -> AbstractContextManager[None]:
        """A block in which the metric's errors name it and its plugin."""
        return blamed("metric", self.name)
