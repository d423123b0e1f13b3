"""What evaluations on images and on clips share: a metric for each seed, in pieces that several processes work on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from ..files import write_json
from ..interfaces import Metric, Scores
from ..model import DenseModel
from .protocol import Protocol
from .scorer import Scorer
from .workdir import RunFolder

Progress: TypeAlias = Callable[[Iterable[Any], int, str], Iterable[Any]]  # (items, total, what) -> items


@dataclass(frozen=True)
class Job:
    """One model under one protocol.

    scorer: the protocol's metric. folder: where pieces of work are stored. seeds: one probe each.
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
        """An empty accumulator for each seed."""
        return {seed: self.scorer.new(classes) for seed in self.seeds}

    def write(self, piece: str, metrics: Mapping[int, Metric]) -> None:
        """Store what a piece added up to."""
        states = {str(seed): self.scorer.state(metric) for seed, metric in metrics.items()}
        write_json(self.folder.part(piece), states)

    def totals(self, pieces: Sequence[str], classes: Sequence[str]) -> dict[int, Scores]:
        """Wait until all pieces are stored, whoever worked on them; the scores of each seed, summed in their order."""
        self.folder.wait([self.folder.part(piece) for piece in pieces])
        metrics = self.metrics(classes)
        for piece in pieces:
            states = self.folder.done(piece)
            for seed, metric in metrics.items():
                self.scorer.merge(metric, states[str(seed)])
        return {seed: self.scorer.compute(metric) for seed, metric in metrics.items()}
