"""Every argument of every registered part changes what comes out, or is refused by name.

The parts come from the registry and the arguments from their signatures, fields of nested settings among them, so that
a new part or argument fails here until the tables have a line for it. So do the measures, which are functions, and the
sections of a protocol.
"""

import dataclasses
import functools
import importlib
import inspect
import re
import typing
from pathlib import Path

import effect_outcomes
import effect_outcomes_more
import effect_table
import effect_table_more
import pytest
import torch
from effect_lines import BOTH, Changes, Refused, Same, line

from dense_ctx import registry
from dense_ctx.config import Part
from dense_ctx.errors import ConfigError, InputError
from dense_ctx.evaluate import Protocol

TABLE = {**effect_table.TABLE, **effect_table_more.TABLE}
OUTCOMES = {**vars(effect_outcomes_more), **vars(effect_outcomes)}
MEASURES = {"temporal_consistency": "temporal", "boundary_quality": "boundary", "feature_invariance": "invariance"}
ONE_A_TARGET = ("backbone", "cue")  # whose names are presets, some of them of networks of a gigabyte


def parts():
    """Names of the parts that take arguments: "kind name"."""
    table = {part: target_of(part) for part in TABLE if part.partition(" ")[0] in ONE_A_TARGET}
    for entry in registry().entries():
        kind = registry().kinds[entry.kind]
        if entry.owner.distribution != "dense-ctx" or kind.base is None:
            continue
        if entry.kind == "tracker":  # packages of their own environments: test_trackers_own
            continue
        part = f"{entry.kind} {entry.name}"
        if entry.kind in ONE_A_TARGET and registry().resolve(entry) in table.values():
            continue
        table[part] = registry().resolve(entry)
    measures = {f"measure {name}": target_of(f"measure {name}") for name in MEASURES}
    return [
        *(part for part, target in {**table, **measures}.items() if inspect.signature(target).parameters),
        PROTOCOL,
    ]


PROTOCOL = "protocol any"


def target_of(part):
    kind, name = part.split(" ", 1)
    if kind == "measure":
        return getattr(importlib.import_module(f"dense_ctx_measures.{MEASURES[name]}"), name)
    if kind == "protocol":
        return Protocol
    return registry().resolve(registry()._entries[kind, name])  # `get` wants a member of a family


def arguments(part):
    """Names of its arguments; a.b for a field of nested settings, those that are a dataclass."""
    target = target_of(part)
    settings = part.partition(" ")[0] in ("objective", "protocol")
    hints = typing.get_type_hints(target.__init__) if settings else {}
    for parameter in inspect.signature(target).parameters.values():
        hint = hints.get(parameter.name)
        nested = [one for one in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(one) and one is not Part]
        if nested:
            yield from (f"{parameter.name}.{field.name}" for field in dataclasses.fields(nested[0]))
        else:
            yield parameter.name


def tasks(part):
    """Of a probe, those under which it is run; of any other part None."""
    kind, name = part.split(" ", 1)
    return effect_table.TASKS.get(name, BOTH) if kind == "probe" else (None,)


ROWS = [(part, argument) for part in parts() for argument in arguments(part)]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """The outcome of a part with arguments; computed once, of the first arguments twice, which must agree."""
    root, again = tmp_path_factory.mktemp("effects"), set()

    def compute(part, args):
        kind, name = part.split(" ", 1)
        folder = Path(root) / re.sub(r"\W", "-", part)
        return OUTCOMES[kind](name, dict(args), folder)

    @functools.cache
    def cached(part, words):
        args = pending.pop()
        value = compute(part, args)
        if part not in again:
            again.add(part)
            assert not differ(value, compute(part, args)), (
                f"two runs of {part} differ: any argument would seem to count"
            )
        return value

    pending = []

    def run(part, args):
        pending[:] = [args]
        return cached(part, repr(sorted(args.items(), key=str)))

    return run


@pytest.mark.parametrize(("part", "argument"), ROWS, ids=lambda value: value.replace(" ", "-"))
def test_an_argument_changes_the_outcome_or_is_refused(part, argument, outcome):
    assert argument in TABLE.get(part, {}), f"{argument} of {part} has no line in the tables: what does it change?"
    row = line(TABLE[part][argument])
    for task in () if isinstance(row, Same) else tasks(part):
        setting = {} if task is None or argument == "task" else {"task": task}
        if isinstance(row, Refused) or (task is not None and task not in row.tasks):
            if not (isinstance(row, Changes) and row.idle):
                words = row.words if isinstance(row, Refused) else "would have no effect"
                with pytest.raises((ConfigError, InputError), match=words or argument.rpartition(".")[2]) as error:
                    outcome(part, {**setting, argument: row.value})
                assert argument.rpartition(".")[2] in str(error.value) or words
            continue
        outer, _, inner = argument.partition(".") if part != PROTOCOL else (argument, "", "")
        value = {**row.base.get(outer, {}), inner: row.value} if inner else row.value
        base = {**setting, **row.base}
        assert differ(outcome(part, base), outcome(part, {**base, outer: value})), (
            f"{part} ignores {argument}={row.value!r} under {task}"
        )


def differ(one, other):
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        if one.shape != other.shape or one.dtype != other.dtype:
            return True
        one, other = one.double(), other.double()
        return bool(((one - other).abs() > 1e-5 * one.abs().max().clamp_min(1e-3)).any()) if one.numel() else False
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) != len(other) or any(map(differ, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) > 1e-6 * max(1.0, abs(one)) or (one != one) != (other != other)
    return one != other


def test_no_line_is_of_a_part_or_an_argument_that_is_gone():
    assert {part: set(lines) for part, lines in TABLE.items()} == {part: set(arguments(part)) for part in parts()}


def test_an_exception_names_a_test_that_exists():
    files = {path.stem: path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py")}
    names = {*files, *(name for text in files.values() for name in re.findall(r"^def (test_\w+)", text, re.MULTILINE))}
    for part, lines in TABLE.items():
        for argument, row in lines.items():
            named = re.findall(r"\btest_\w+", row.reason) if isinstance(row, Same) else ["test_effects"]
            assert named, f"{part}: {argument}: {row.reason} does not name the test where it counts"
            assert set(named) <= names, f"{part}: {argument}: {set(named) - names}"


def test_the_measures_are_those_of_the_verb():
    source = inspect.getsource(importlib.import_module("dense_ctx_measures.command"))
    assert set(re.findall(r"from \.\w+ import (\w+)", source)) == set(MEASURES)


@pytest.mark.parametrize("part", ["probe ridge", "segmenter ncut", "metric depth"])
def test_a_part_that_ignores_an_argument_is_noticed(part, outcome, monkeypatch):
    """Of three kinds: the argument's value is dropped on the way to the part."""
    argument, create = list(TABLE[part])[-1], type(registry()).create

    def ignoring(self, kind, name, /, **args):
        args = {k: v for k, v in args.items() if k != argument} if f"{kind} {name}" == part else args
        return create(self, kind, name, **args)

    monkeypatch.setattr(type(registry()), "create", ignoring)
    outcome_now = lambda part, args: OUTCOMES[part.split(" ")[0]](part.split(" ", 1)[1], dict(args), Path())  # noqa: E731
    with pytest.raises(AssertionError, match=f"{part} ignores {argument}"):
        test_an_argument_changes_the_outcome_or_is_refused(part, argument, outcome_now)


def test_an_argument_without_a_line_fails(outcome):
    with pytest.raises(AssertionError, match="sharpness of probe ridge has no line"):
        test_an_argument_changes_the_outcome_or_is_refused("probe ridge", "sharpness", outcome)
    with pytest.raises(AssertionError, match="penalty of probe new has no line"):
        test_an_argument_changes_the_outcome_or_is_refused("probe new", "penalty", outcome)
