"""The semi-supervised DAVIS evaluation (Pont-Tuset et al. 2017): scores of sequences, their averages, and input checks.

Rules: the first and the last frame are not scored; the number of objects is the largest id of the first true mask;
averages are over objects, not sequences; 255 in the truth is void. With `binary` (DAVIS-2016) any value above 0 is
object 1.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from dense_ctx.data.base import by_number, read_mask
from dense_ctx.errors import FileError, InputError
from dense_ctx.gateway import gateway

from .vos import Array, object_scores, statistics

Ids = np.ndarray[Any, Any]


@dataclass(frozen=True)
class SequenceScores:
    """J and F of each object and scored frame of a sequence, float64 [objects, frames - 2]."""

    name: str
    j: Array
    f: Array


class SequenceScorer:
    """Scores one sequence frame by frame; it stores two numbers per object and frame.

    Args:
        name: for errors.
        first: the first true mask, integers [H, W].
        binary: any value above 0 is object 1.

    Raises:
        InputError: no object in the first mask.
    """

    def __init__(self, name: str, first: Ids, binary: bool = False) -> None:
        self.name, self.binary = name, binary
        first = self._ids(first)
        self.objects = int(first[first != 255].max(initial=0))
        self.shape = first.shape
        if not self.objects:
            raise InputError(f"{name}: the first mask holds no object (every pixel is 0 or void); nothing to score")
        self._scores: list[tuple[Array, Array]] = []

    def _ids(self, mask: Ids) -> Ids:
        return (mask > 0).astype(np.uint8) if self.binary else mask

    def add(self, truth: Ids, prediction: Ids) -> None:
        """Score the next frame, from the second on.

        Raises:
            InputError: another size, or a predicted id above the number of objects.
        """
        frame = f"{self.name}, frame {len(self._scores) + 1}"
        truth, prediction = self._ids(truth), self._ids(prediction)
        if truth.shape != self.shape or prediction.shape != self.shape:
            raise InputError(
                f"{frame}: truth {list(truth.shape)}, prediction {list(prediction.shape)}; the first mask is "
                f"{list(self.shape)} (H, W). Resize predictions by nearest neighbour to the truth's size"
            )
        high = int(prediction.max(initial=0))
        if high > self.objects:
            raise InputError(
                f"{frame}: the prediction holds id {high}; the first true mask has objects 1 to {self.objects}. "
                "Predictions must use the ids of the first mask"
                + ("; are these 0/255 masks of DAVIS-2016?" if high == 255 and self.objects == 1 else "")
            )
        self._scores.append(object_scores(truth, prediction, self.objects))

    def result(self) -> SequenceScores:
        """The scores of all frames but the first and the last.

        Raises:
            InputError: the sequence has fewer than three frames.
        """
        if len(self._scores) < 2:
            raise InputError(
                f"{self.name} has {len(self._scores) + 1} frame(s); the first and the last are not scored, so at least "
                "3 are needed"
            )
        j, f = (np.stack([pair[i] for pair in self._scores[:-1]], axis=1) for i in (0, 1))
        return SequenceScores(self.name, j, f)


def summarize(sequences: Iterable[SequenceScores]) -> dict[str, Any]:
    """Average the scores of all objects.

    Returns:
        {"J&F-Mean", "J-Mean", "J-Recall", "J-Decay", "F-Mean", ...: value, "objects": {"sequence_1": {"J-Mean" ...}}}.

    Raises:
        InputError: no sequence.
    """
    objects: dict[str, dict[str, float]] = {}
    for sequence in sequences:
        for index in range(len(sequence.j)):
            row: dict[str, float] = {}
            for name, values in (("J", sequence.j[index]), ("F", sequence.f[index])):
                row.update(zip((f"{name}-Mean", f"{name}-Recall", f"{name}-Decay"), statistics(values), strict=True))
            objects[f"{sequence.name}_{index + 1}"] = row
    if not objects:
        raise InputError("No sequence to average")
    mean = {key: float(np.mean([row[key] for row in objects.values()])) for key in next(iter(objects.values()))}
    return {"J&F-Mean": (mean["J-Mean"] + mean["F-Mean"]) / 2, **mean, "objects": objects}


@gateway
def score_folders(
    truth: str | os.PathLike[str],
    prediction: str | os.PathLike[str],
    sequences: Sequence[str] | None = None,
    *,
    binary: bool = False,
    processes: int = 1,
) -> dict[str, Any]:
    """Score folders of palette PNGs, one folder per sequence, as the official evaluator does.

    Args:
        truth, prediction: folders with SEQUENCE/00000.png ...
        sequences: names to score; default all in `truth`.
        binary: DAVIS-2016, whose few masks stored as grey RGB pictures are read too.
        processes: number of worker processes.

    Returns:
        As `summarize`.

    Raises:
        FileError: a folder or frame is missing or cannot be read.
        InputError: both folders are the same, extra frames, unknown ids, other sizes, or processes below 1.
    """
    truth, prediction = Path(truth), Path(prediction)
    if processes < 1:
        raise InputError(f"processes={processes} is not at least 1")
    for role, root in (("truth", truth), ("predictions", prediction)):
        if not root.is_dir():
            raise FileError(f"No folder of {role} at {root}")
    if truth.resolve() == prediction.resolve():
        raise InputError(f"The predictions and the truth are the same folder, {truth}: every score would be 1")
    names = sorted(p.name for p in truth.iterdir() if p.is_dir()) if sequences is None else list(sequences)
    if not names:
        raise FileError(f"{truth} holds no sequence folders")
    work = partial(_score_sequence, truth, prediction, binary)
    if processes == 1:
        return summarize(map(work, names))
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        return summarize(pool.map(work, names))


def _score_sequence(truth: Path, prediction: Path, binary: bool, name: str) -> SequenceScores:
    true_frames, frames = _frames(truth / name, "truth"), _frames(prediction / name, "predictions")
    if (truth / name).resolve() == (prediction / name).resolve():
        raise InputError(f"{name}: the predictions and the truth are the same folder ({prediction / name})")
    missing, extra = sorted(set(true_frames) - set(frames)), sorted(set(frames) - set(true_frames))
    if missing:
        raise FileError(
            f"{prediction / name} lacks {_some(missing)} of the {len(true_frames)} frames of {truth / name}"
        )
    if extra:
        raise InputError(f"{prediction / name} holds {_some(extra)}, which are not in {truth / name}")
    scorer: SequenceScorer | None = None
    for stem, path in true_frames.items():
        mask = read_mask(path, binary).numpy()
        if scorer is None:
            scorer = SequenceScorer(name, mask, binary)
        else:
            scorer.add(mask, read_mask(frames[stem], binary).numpy())
    if scorer is None:
        raise FileError(f"{truth / name} holds no PNG masks")
    return scorer.result()


def _frames(folder: Path, role: str) -> Mapping[str, Path]:
    if not folder.is_dir():
        raise FileError(f"No folder of {role} at {folder}")
    return {path.stem: path for path in sorted(folder.glob("*.png"), key=by_number)}


def _some(stems: list[str]) -> str:
    return ", ".join(stems[:3]) + (f" and {len(stems) - 3} more" if len(stems) > 3 else "")
