"""The one reader: YAML 1.2, NAME(key=value, ...), key.sub=value, and mappings to dataclasses."""

import json
import math
import random
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
import yaml

from dense_ctx.config import Part, Parts, dump_yaml, load_yaml, override, parse_part, split_parts, typed
from dense_ctx.config.yaml_reader import MAX_DEPTH, MAX_NODES
from dense_ctx.errors import ConfigError

# Of the specification, section 10.3.2, and where YAML 1.1 or PyYAML's reading of it differs.
CORE = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None, "nULL": "nULL",
    "true": True, "True": True, "FALSE": False, "tRUE": "tRUE",
    "yes": "yes", "no": "no", "on": "on", "off": "off", "y": "y", "NO": "NO",
    "0": 0, "-19": -19, "+12": 12, "010": 10, "0o7": 7, "0x3A": 58, "0X3A": "0X3A", "0b11": "0b11",
    "0.": 0.0, "-0.0": -0.0, ".5": 0.5, "+12e03": 12000.0, "-2E+05": -200000.0, "1e-3": 1e-3, "1.e3": 1000.0,
    "1e5": 1e5, "1e": "1e", ".": ".", "-": [None], "-.5": -0.5, "e3": "e3", "1_000": "1_000", "1:30": "1:30",
    "1:30.5": "1:30.5", "2024-01-01": "2024-01-01", "2024-01-01 10:00:00": "2024-01-01 10:00:00",
    ".inf": math.inf, "-.Inf": -math.inf, "+.INF": math.inf, "inf": "inf", "nan": "nan", "<<": "<<", "=": "=",
    "'1'": "1", '"no"': "no", "[1, .5, no]": [1, 0.5, "no"], "{a: 1e-3, b: ~}": {"a": 1e-3, "b": None},
}  # fmt: skip
TEXTS = [
    *CORE, "a b", "it's", 'a "b"', "a, b", "a: b", "a #b", "#a", "[1", "1]", "(x", "x)", "{", "=", "a=b", "*.png", "&x",
    "!x", "%", "@a", "`", "é", "日本", "a\nb", "\t", " a ", "C:\\data\\x", "http://a/b?c=d&e", "don't", "'", '"', "\\",
    "a\\", "- a", "? a", "---", "...", "|", ">",
]  # fmt: skip


def same(one, two):
    """Equal, of one type each; NaN equals NaN."""
    if type(one) is not type(two):
        return False
    if isinstance(one, dict):
        return list(one) == list(two) and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(two) and all(map(same, one, two))
    return one == two or (one != one and two != two)


def value(draw, depth=3):
    """A random value of JSON's types, with the numbers and texts that are hard to write."""
    kind = draw.randrange(7 if depth else 5)
    if kind == 0:
        return draw.choice([None, True, False])
    if kind == 1:
        return draw.choice([0, -1, 7, 10**20, draw.randrange(-(10**6), 10**6)])
    if kind == 2:
        return draw.choice([0.0, 1e-3, 1e300, 5e-324, -1e-7, 1e22, math.inf, -math.inf, math.nan, draw.gauss(0, 1)])
    if kind == 3:
        return draw.choice(TEXTS)
    if kind == 4:
        return "".join(draw.choice(string.printable[:95]) for _ in range(draw.randrange(8)))
    if kind == 5:
        return [value(draw, depth - 1) for _ in range(draw.randrange(4))]
    return {str(value(draw, 0)): value(draw, depth - 1) for _ in range(draw.randrange(4))}


# ---------------------------------------------------------------------- YAML


@pytest.mark.parametrize("text", CORE)
def test_the_core_schema(text):
    assert same(load_yaml(text, "x"), CORE[text])


def test_not_a_number():
    assert math.isnan(load_yaml(".nan", "x"))


def test_values_are_read_back():
    draw = random.Random(0)
    for _ in range(2000):
        item = value(draw)
        assert same(load_yaml(dump_yaml(item), "x"), item), item


def test_texts_are_texts_to_a_reader_of_either_version():
    for text in TEXTS:
        assert yaml.safe_load(dump_yaml({"key": text})) == {"key": text}


def test_json_is_yaml():
    draw = random.Random(1)
    for _ in range(500):
        item = json.loads(json.dumps(value(draw), default=str).replace("NaN", "0").replace("Infinity", "0"))
        assert same(load_yaml(json.dumps(item, ensure_ascii=False), "x"), item)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", r"the key 'a' is repeated \(line 3, column 1\)"),
        ("{a: {b: 1, b: 2}}", r"the key 'b' is repeated \(line 1, column 12\)"),
        ("a: [1", r"expected ',' or '\]', but got '<stream end>' \(line 1, column 6\)"),
        ("a: b: c", r"mapping values are not allowed here \(line 1, column 5\)"),
        ("- 1\n--- \n- 2", "but found another document"),
        ("[a]: 1", "a list or a mapping as a key"),
        ("&a [*a]", "an alias inside the value that it names"),
        ("1e999", "1e999 is too large a number"),
        ("7" * 5000, "is not a whole number that can be read"),
        ("!!python/object:os.system x", "could not determine a constructor"),
        ("!!timestamp 2024-01-01", "could not determine a constructor"),
        ("!!bool maybe", "'maybe' is not true or false"),
        ("!!float x", "'x' is not a number"),
        ("!!map [1]", "expected a mapping"),
        ("a\x00b", "special characters are not allowed"),
    ],
)
def test_what_is_no_yaml_is_one_line(text, message):
    with pytest.raises(ConfigError, match=r"^a\.yaml is not YAML: ") as caught:
        load_yaml(text, "a.yaml")
    assert caught.match(message)
    assert "\n" not in str(caught.value)


def test_nesting_and_aliases_are_bounded():
    assert load_yaml("[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1), "x")
    for text in ("[" * 10**4, "{a: " * 10**4, "- " * 10**4):
        with pytest.raises(ConfigError, match="more than 64 levels of nesting"):
            load_yaml(text, "x")
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [
        f"{one}: &{one} [{', '.join([f'*{other}'] * 9)}]" for other, one in zip("abcdefgh", "bcdefghi", strict=True)
    ]
    with pytest.raises(ConfigError, match=f"more than {MAX_NODES} values, with its aliases expanded"):
        load_yaml("\n".join(lines), "bomb.yaml")
    assert load_yaml("\n".join(lines[:3]), "x")["c"][0][0] == ["x"] * 9


# ---------------------------------------------------------------------- NAME(key=value, ...)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("dpt", Part("dpt")),
        (" dpt ( ) ", Part("dpt")),
        ("dpt(dim=64, lr=1e-3)", Part("dpt", {"dim": 64, "lr": 1e-3})),
        ("flow:raft-small(weights=null, iterations=3)", Part("flow:raft-small", {"weights": None, "iterations": 3})),
        ('a:b(config={"x": [1, 2], y: z})', Part("a:b", {"config": {"x": [1, 2], "y": "z"}})),
        ("f(a='x, y)', b=\"(\\\"\", c='it''s, so')", Part("f", {"a": "x, y)", "b": '("', "c": "it's, so"})),
        ("f(a=don't, b=no)", Part("f", {"a": "don't", "b": "no"})),
        ("f(a=g(b=1, c=[2]), d=-1)", Part("f", {"a": "g(b=1, c=[2])", "d": -1})),
        ("hf:owner/name(weights=/data/a b.pt)", Part("hf:owner/name", {"weights": "/data/a b.pt"})),
        ("f(a=b=c)", Part("f", {"a": "b=c"})),
        ("model:runs/mine/model", Part("model:runs/mine/model")),
        ("lora:model:owner/name(rank=4)", Part("lora:model:owner/name", {"rank": 4})),
        (Part("f", {"a": 1}), Part("f", {"a": 1})),
    ],
)
def test_parts(text, part):
    assert parse_part(text) == part


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the name is missing"),
        ("(a=1)", "the name is missing"),
        ("f g", "'f g' is not a name"),
        ("f(a=1", "the bracket does not close at the end"),
        ("f(a=1))", "the bracket does not close at the end"),
        ("f(a=1)(b=2)", "the bracket does not close at the end"),
        ("f(a=1)x", "the bracket does not close at the end"),
        ("f(a=[1)", "the brackets do not match at"),
        ("f(a='1)", "' is missing"),
        ("f(a=1,)", "'' is not key=value"),
        ("f(a, b=2)", "'a' is not key=value"),
        ("f(1=2)", "'1=2' is not key=value"),
        ("f(a=1, a=1)", "a is given twice"),
        ("f(a=*.png)", "the value of a is not YAML"),
        ("f(a=x #y)", "the value of a: a # after a space begins a comment"),
        (3, "expected NAME or NAME"),
        (None, "expected NAME or NAME"),
    ],
)
def test_what_is_no_part_is_named(text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        parse_part(text)
    assert str(text) in str(caught.value)


def test_parts_are_read_back():
    draw = random.Random(2)
    for _ in range(2000):
        part = Part("a:b/c-d_1.5", {f"k{index}": value(draw) for index in range(draw.randrange(4))})
        assert "\n" not in str(part)
        read = parse_part(str(part))
        assert read.name == part.name
        assert same(read.args, part.args), str(part)


def test_a_model_of_two_parts():
    assert split_parts("dinov2-s14") == ["dinov2-s14"]
    assert split_parts("a(w=x+y) + b(l=[1+2])") == ["a(w=x+y)", "b(l=[1+2])"]
    assert str(Parts(Part("a", {"b": 1}), Part("c"))) == "a(b=1)+c"


# ---------------------------------------------------------------------- key.sub=value


def test_overrides():
    values = {"a": 1, "b": {"c": 2, "d": None}}
    assert override(values, "a=1e-3", "b.d.e=no", "b.c=[1, x]", "f.g.h= {i: null} ", "k=") is values
    assert values == {
        "a": 1e-3, "b": {"c": [1, "x"], "d": {"e": "no"}}, "f": {"g": {"h": {"i": None}}}, "k": None
    }  # fmt: skip
    assert override({}, "a=b=c", "url=http://x/y?z=1") == {"a": "b=c", "url": "http://x/y?z=1"}
    assert override({}, "a=1", "a=2") == {"a": 2}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("a", "'a' is not KEY=VALUE"),
        ("=1", "'=1' is not KEY=VALUE"),
        ("a..b=1", "is not KEY=VALUE"),
        (".a=1", "is not KEY=VALUE"),
        ("n.x=1", "n is 3, which has no keys"),
        ("n.x.y=1", "n is 3, which has no keys"),
        ("l.0=1", r"l is \[1\], which has no keys"),
        ("a={", r"'a=\{' is not YAML"),
        ("a=x #1", "begins a comment; put the value in quotes"),
    ],
)
def test_what_is_no_override_is_named(setting, message):
    with pytest.raises(ConfigError, match=message):
        override({"n": 3, "l": [1]}, setting)


def test_an_override_is_what_a_file_would_have():
    draw = random.Random(3)
    for _ in range(500):
        item = value(draw)
        text = json.dumps(item, ensure_ascii=False) if item == item and isinstance(item, (str, list, dict)) else None
        if text is not None and "NaN" not in text and "Infinity" not in text:
            assert same(override({}, f"a.b={text}"), {"a": {"b": item}})


# ---------------------------------------------------------------------- dataclasses


@dataclass(frozen=True)
class Inner:
    size: tuple[int, int]
    rate: float = 1.0

    def __post_init__(self):
        if self.rate < 0:
            raise ConfigError(f"rate is {self.rate}; expected at least 0")


@dataclass(frozen=True)
class Outer:
    inner: Inner
    word: Literal["no", "one"] = "no"
    flag: bool = False
    names: tuple[str, ...] = ()
    part: Part | None = None
    either: Inner | str | None = None
    free: Mapping[str, Any] = field(default_factory=dict)


def test_mappings_become_dataclasses():
    data = {"inner": {"size": [2, 3], "rate": 2}, "word": "one", "names": ["a"], "part": "f(a=1)", "free": {"x": [1]}}
    read = typed(Outer, data, "x")
    assert read == Outer(Inner((2, 3), 2), "one", False, ("a",), Part("f", {"a": 1}), None, {"x": [1]})
    assert type(read.inner.rate) is int  # as it was given: digests of protocols depend on it
    assert typed(Outer, {"inner": Inner((1, 1)), "either": "text"}, "x").either == "text"
    assert typed(Outer, {"inner": {"size": [1, 1]}, "either": {"size": [4, 5]}}, "x").either == Inner((4, 5))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "x is None; expected a mapping with inner, word"),
        ({}, r"x: missing key\(s\) inner"),
        ({"inner": {"size": [1, 1]}, "wrod": 1}, r"x: unknown key\(s\) wrod \(did you mean word\?\); known: either"),
        ({"inner": {"size": [1, 1]}, 3: 1, None: 2}, r"x: unknown key\(s\) 3, None; known"),
        ({"inner": {"sizes": [1, 1]}}, r"x: inner: unknown key\(s\) sizes \(did you mean size\?\)"),
        ({"inner": {"size": [1]}}, r"x: inner.size is \[1\]; expected a list of 2, each a whole number"),
        ({"inner": {"size": [1, "2"]}}, r"x: inner.size\[1\] is '2'; expected a whole number"),
        ({"inner": {"size": [1, True]}}, r"inner.size\[1\] is True; expected a whole number"),
        ({"inner": {"size": [1, 1], "rate": "1e-3"}}, "inner.rate is '1e-3'; expected a number"),
        ({"inner": {"size": [1, 1], "rate": -1}}, "x: rate is -1; expected at least 0"),
        ({"inner": {"size": [1, 1]}, "word": False}, "word is False; expected one of no, one"),
        ({"inner": {"size": [1, 1]}, "flag": 1}, "flag is 1; expected true or false"),
        ({"inner": {"size": [1, 1]}, "flag": "no"}, "flag is 'no'; expected true or false"),
        ({"inner": {"size": [1, 1]}, "names": "a"}, "names is 'a'; expected a list, each text"),
        ({"inner": {"size": [1, 1]}, "part": ["f"]}, "part is .*; expected a mapping with name, args"),
        ({"inner": {"size": [1, 1]}, "part": "f("}, r"'f\(' is not NAME"),
        ({"inner": {"size": [1, 1]}, "free": {1: 2}}, "free is {1: 2}; expected a mapping of names to values"),
    ],
)
def test_what_does_not_fit_is_named_by_its_key(data, message):
    with pytest.raises(ConfigError, match=message):
        typed(Outer, data, "x")
