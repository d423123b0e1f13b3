"""Checks of a protocol's values, so that a mistake in a file is found before anything is computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, get_args

from ..errors import ConfigError

if TYPE_CHECKING:
    from .protocol import Protocol


def check(protocol: Protocol) -> None:
    """Refuse values of the wrong type or range.

    Raises:
        ConfigError: names the protocol, the key, what was given and what is expected.
    """
    from . import protocol as defined

    p, train, scoring = protocol, protocol.train, protocol.scoring
    image, data = protocol.image, protocol.data
    rules: list[tuple[str, Any, Callable[[Any], bool], str]] = [
        ("id", p.id, lambda v: isinstance(v, str) and bool(v) and "/" not in v, "a name without /"),
        ("grid", p.grid, _whole, "a whole number of pixels, at least 1"),
        ("reads", p.reads, lambda v: v in READS, _words(READS)),
        ("precision", p.precision, lambda v: v in PRECISIONS, _words(PRECISIONS)),
        ("data.name", data.name, lambda v: isinstance(v, str), "the name of a data set"),
        ("data.fraction", data.fraction, lambda v: _number(v) and 0 < v <= 1, "in (0, 1]"),
        ("data.options", data.options, lambda v: isinstance(v, dict), "a mapping"),
        ("probe.name", p.probe.name, lambda v: isinstance(v, str), "the name of a probe"),
        ("probe.args", p.probe.args, lambda v: isinstance(v, dict), "a mapping"),
        ("image.short_side", image.short_side, lambda v: v is None or _whole(v), "a number of pixels, or null"),
        ("image.size", image.size, lambda v: v is None or _size(v), "[height, width], or null"),
        ("scoring.matching", scoring.matching, lambda v: v in MATCHINGS, _words(MATCHINGS)),
        ("scoring.absent", scoring.absent, lambda v: v in ABSENT, _words(ABSENT)),
        ("scoring.align", scoring.align, lambda v: v in ALIGNMENTS, _words(ALIGNMENTS)),
        ("scoring.low", scoring.low, lambda v: _number(v) and v > 0, "above 0 metres"),
        ("scoring.high", scoring.high, _number, "a number of metres"),
        ("scoring.mask_side", scoring.mask_side, lambda v: v is None or _whole(v), "a number of pixels, or null"),
        ("scoring.unseen", scoring.unseen, lambda v: isinstance(v, tuple), "a list of class names"),
    ]
    if train is not None:
        rules += [
            ("train.steps", train.steps, _whole, "at least 1, a whole number"),
            ("train.batch", train.batch, _whole, "a whole number of images, at least 1"),
            ("train.scale", train.scale, lambda v: _pair(v) and 0 < v[0] <= v[1], "[low, high] above 0"),
            ("train.crop", train.crop, lambda v: v is None or _size(v), "[height, width], or null"),
            ("train.flip", train.flip, lambda v: isinstance(v, bool), "true or false"),
            ("train.label_stride", train.label_stride, _whole, "a whole number of pixels, at least 1"),
        ]
    for key, value, right, expected in rules:
        if not right(value):
            raise ConfigError(f"{p.id}: {key} is {value!r}; expected {expected}")
    if not scoring.low < scoring.high:
        raise ConfigError(f"{p.id}: scoring.low is {scoring.low}; expected below scoring.high, {scoring.high}")
    if p.task not in get_args(defined.TaskName):
        raise ConfigError(f"{p.id}: task {p.task!r} is not one of {', '.join(get_args(defined.TaskName))}")
    if p.metric not in defined.METRICS[p.task]:
        raise ConfigError(
            f"{p.id}: metric {p.metric!r} is not one of the {p.task} task's: {', '.join(defined.METRICS[p.task])}"
        )


PRECISIONS = ("float32", "bfloat16")
READS = ("pixels", "patches", "both")
MATCHINGS = ("none", "hungarian", "many_to_one")
ABSENT = ("left_out", "zero")
ALIGNMENTS = ("none", "median", "scale_shift")


def _words(words: tuple[str, ...]) -> str:
    return f"one of {', '.join(words)}"


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _pair(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == 2 and all(map(_number, value))


def _size(value: Any) -> bool:
    return _pair(value) and all(map(_whole, value))
