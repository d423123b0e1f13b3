"""check_metric: verify the contract of `dense_ctx.Metric`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dense_ctx.errors import InputError
from dense_ctx.interfaces import Metric, Scores
from dense_ctx.testing.common import Clauses, factory, noise

CLASSES = ("red", "green", "blue")
SIZES = ((12, 18), (9, 20), (14, 10), (12, 18))  # H != W; each image has ignored pixels
KINDS = ("segmentation", "depth", "normals", "instances", "video")

Feed = Callable[[Metric], None]  # one image, or one clip


def check_metric(
    metric: str | Callable[..., Metric],
    *,
    args: dict[str, Any] | None = None,
    classes: Sequence[str] = CLASSES,
    tolerance: float = 1e-9,
) -> tuple[str, ...]:
    """Verify a metric on four images, or four clips, of its own kind.

    Args:
        metric: a registered name, or the class.
        args: further constructor arguments.
        classes: names of the classes, where the kind has them.
        tolerance: largest difference, absolute and relative, between one pass and a sum of parts.

    Returns:
        The clauses verified: attributes, construction, empty, update, state, compute, direction, merge.

    Raises:
        ContractError: a clause is broken.
    """
    check = Clauses("metric", metric)
    build = factory("metric", metric, args or {})
    labels = _attributes(check, metric) in ("segmentation", "instances")

    def new() -> Metric:
        return build(classes=tuple(classes) if labels else ())  # type: ignore[no-any-return]

    with check.clause("construction") as require:
        first = new()
        require(isinstance(first, Metric), f"gave a {type(first).__name__}, not a Metric")
    with check.clause("empty") as require:
        try:
            new().compute()
        except InputError:
            pass
        else:
            require(False, "compute() of nothing must raise InputError")
    feeds = [_feed(first.target, seed, True, len(classes)) for seed in range(len(SIZES))]
    whole = _update(check, new(), feeds)
    _state(check, whole)
    scores = _compute(check, whole)
    _direction(check, new(), scores, len(classes))
    _merge(check, new, feeds, scores, tolerance)
    return tuple(check.done)


def _attributes(check: Clauses, metric: str | Callable[..., Metric]) -> str:
    with check.clause("attributes") as require:
        part: Any = metric
        if isinstance(metric, str):
            from dense_ctx.plugins import registry

            part = registry().resolve(registry().get("metric", metric)[0])
        require(isinstance(part, type), f"is a {type(part).__name__}; what is registered is the class itself")
        target, scores = getattr(part, "target", None), getattr(part, "higher_is_better", None)
        require(target in KINDS, f"target is {target!r}, none of {', '.join(KINDS)}")
        says = isinstance(scores, dict) and scores and all(isinstance(value, bool) for value in scores.values())
        require(bool(says), f"higher_is_better is {scores!r}; expected each score and True or False")
    return str(target)


def _update(check: Clauses, metric: Metric, feeds: Sequence[Feed]) -> Metric:
    with check.clause("update"):
        for feed in feeds:
            feed(metric)
    return metric


def _state(check: Clauses, metric: Metric) -> None:
    with check.clause("state") as require:
        state = metric.state()
        stored = json.loads(json.dumps(state, allow_nan=False))
        require(stored == state, "JSON gives back other values than state(): tuples, or keys that are no str?")
        require(metric.state() == state, "two calls of state() differ")


def _compute(check: Clauses, metric: Metric) -> Scores:
    with check.clause("compute") as require:
        before = metric.state()
        scores = metric.compute()
        require(isinstance(scores, Scores), f"gave a {type(scores).__name__}, not Scores")
        expected, names = set(metric.higher_is_better), set(scores.values)
        require(names == expected, f"values are {sorted(names)}; higher_is_better names {sorted(expected)}")
        require(all(isinstance(v, float) for v in scores.values.values()), f"values are floats; got {scores.values}")
        require(all(isinstance(v, int) for v in scores.counts.values()), f"counts are ints; got {scores.counts}")
        json.dumps(scores.parts)
        require(metric.state() == before, "compute() changes what was accumulated")
    return scores


def _direction(check: Clauses, metric: Metric, perfect: Scores, classes: int) -> None:
    """Perfect predictions score at least as well as wrong ones, in the direction of `higher_is_better`."""
    with check.clause("direction") as require:
        for seed in range(len(SIZES)):
            _feed(metric.target, seed, False, classes)(metric)
        for name, wrong in metric.compute().values.items():
            right, higher = perfect.values[name], metric.higher_is_better[name]
            worse = right < wrong if higher else right > wrong
            word = "higher" if higher else "lower"
            require(
                not worse, f"{name}: the truth scores {right:.4g}, noise {wrong:.4g}, but {word} is declared better"
            )


def _merge(check: Clauses, new: Callable[[], Metric], feeds: Sequence[Feed], whole: Scores, tolerance: float) -> None:
    last = len(feeds)
    each: list[list[int]] = [[i] for i in range(last)]
    nothing: list[int] = []  # a shard without a valid image
    splits = [each, each[::-1], [[0], [*range(1, last)]], [nothing, [*range(last)], nothing]]
    with check.clause("merge") as require:
        for split in splits:
            total = new()
            for part in split:
                shard = new()
                for index in part:
                    feeds[index](shard)
                total.merge(json.loads(json.dumps(shard.state())))
            scores = total.compute()
            same = all(
                math.isclose(scores.values[name], value, rel_tol=tolerance, abs_tol=tolerance)
                or (math.isnan(value) and math.isnan(scores.values[name]))
                for name, value in whole.values.items()
            )
            require(same, f"parts {split} merged give {dict(scores.values)}, one pass {dict(whole.values)}")
            require(
                scores.counts == whole.counts, f"parts {split} merged count {scores.counts}, one pass {whole.counts}"
            )


def _feed(kind: str, seed: int, right: bool, classes: int) -> Feed:
    """An image, or a clip, with perfect predictions or noise."""
    height, width = SIZES[seed]
    if kind == "video":
        return _clip(seed, right)
    if kind in ("segmentation", "instances"):
        count = max(classes, 1)
        target = torch.randint(count, (height, width), generator=_draw(seed))
        prediction = functional.one_hot(target, count).movedim(-1, 0).float()
        if not right:
            prediction = noise(count, height, width, seed=seed + 50).softmax(0)
        target[0] = -1
    elif kind == "depth":
        target = 1 + 3 * torch.rand(1, height, width, generator=_draw(seed))
        prediction = target.clone() if right else 1 + 3 * torch.rand(1, height, width, generator=_draw(seed + 50))
        target[:, 0] = torch.nan
    else:
        target = functional.normalize(noise(3, height, width, seed=seed), dim=0)
        prediction = target.clone() if right else noise(3, height, width, seed=seed + 50)
        target[:, 0] = torch.nan
    return lambda metric: metric.update(prediction.clone(), target.clone())


def _clip(seed: int, right: bool) -> Feed:
    """Two objects that move right; a wrong prediction lags more with each frame."""

    def frame(number: int) -> Tensor:
        ids = torch.zeros(16, 40, dtype=torch.int64)
        for index in (1, 2):
            left = 2 + 2 * number + seed
            ids[7 * index - 5 : 7 * index, left : left + 12] = index
        return ids

    def feed(metric: Metric) -> None:
        metric.start(f"clip-{seed}", frame(0))
        for number in range(1, 6):
            metric.update(frame(number) if right else frame(number).roll(-2 * number, 1), frame(number))

    return feed


def _draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
