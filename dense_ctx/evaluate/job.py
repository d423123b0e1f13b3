"""Base of the evaluations on images and on clips: a probe and a metric per seed, and stored partial sums."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeAlias

from ..errors import ConfigError, InputError
from ..files import read_json, write_json
from ..interfaces import FitContext, Metric, Probe, Scores, Task
from ..model import DenseModel
from ..plugins import blamed, registry
from .protocol import Protocol
from .scorer import Scorer
from .workdir import RunFolder

Scenes: TypeAlias = dict[str, dict[str, float | None]]  # clip or image -> seed -> headline of it alone
Totals: TypeAlias = tuple[dict[int, Scores], Scenes]  # the scores of each seed
Progress: TypeAlias = Callable[[Iterable[Any], int, str], Iterable[Any]]  # (items, total, what) -> items


@dataclass(frozen=True)
class Job:
    """One model under one protocol.

    scorer: the protocol's metric. folder: where partial sums are stored. seeds: one probe each.
    keep: write predictions. progress: wraps an iterable in a bar.
    """

    model: DenseModel
    protocol: Protocol
    scorer: Scorer
    folder: RunFolder
    seeds: tuple[int, ...]
    keep: bool
    progress: Progress

    def metrics(self, classes: Sequence[str]) -> dict[int, Metric]:
        """An empty metric for each seed."""
        return {seed: self.scorer.new(classes) for seed in self.seeds}

    def headlines(self, metrics: Mapping[int, Metric]) -> dict[str, float | None]:
        """The headline of each seed for the one scene that its metric has seen; None where it is not defined."""
        return {str(seed): self.scorer.headline(metric) for seed, metric in metrics.items()}

    def write(self, piece: str, metrics: Mapping[int, Metric], scenes: Scenes) -> None:
        """Store the metrics of one piece of work (a clip, a shard of images), and the headlines of its scenes."""
        states = {str(seed): self.scorer.state(metric) for seed, metric in metrics.items()}
        write_json(self.folder.part(piece), {"states": states, "scenes": scenes})

    def blamed(self) -> AbstractContextManager[None]:
        """A block in which the probe's errors name it and its plugin."""
        return blamed("probe", self.protocol.probe.name)

    def totals(self, pieces: Sequence[str], classes: Sequence[str]) -> Totals:
        """Wait until all processes have stored all pieces; scores and scenes are merged in the order of `pieces`."""
        self.folder.wait([self.folder.part(piece) for piece in pieces])
        metrics, scenes = self.metrics(classes), Scenes()
        for piece in pieces:
            stored = read_json(self.folder.part(piece))
            scenes.update(stored["scenes"])
            for seed, metric in metrics.items():
                with self.scorer.blamed():
                    metric.merge(stored["states"][str(seed)])
        return {seed: self.scorer.compute(metric) for seed, metric in metrics.items()}, scenes


def make_probe(protocol: Protocol, seed: int, classes: Sequence[str] = ()) -> Probe:
    """The probe that a protocol names, configured before its first batch.

    Args:
        classes: the data set's; () where they are not known yet: then only what needs no classes is checked.

    Raises:
        UnknownNameError, InputError: no such probe, arguments that it does not take, or unseen classes that the data
            set does not have.
        ConfigError: it cannot do what the protocol asks; see `dense_ctx.Probe.configure`.
        FileError: a file among its arguments. PluginError: it fails in another way.
    """
    unknown = [name for name in protocol.scoring.unseen if classes and name not in classes]
    if unknown:
        raise InputError(f"{protocol.id}: scoring.unseen names classes that the data set lacks: {', '.join(unknown)}")
    task: Task = "regression" if Scorer(protocol).target in ("depth", "normals") else "segmentation"
    steps = None if protocol.train is None else protocol.train.steps
    try:
        probe: Probe = registry().create("probe", protocol.probe.name, task=task, **protocol.probe.args)
        with blamed("probe", protocol.probe.name):
            probe.configure(FitContext(tuple(classes), protocol.scoring.unseen, protocol.reads, steps, seed))
    except ConfigError as error:
        raise ConfigError(f"{protocol.id}: probe {protocol.probe.name!r}: {error}") from error
    return probe
