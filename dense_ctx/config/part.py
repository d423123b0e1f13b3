"""How a registered part is written, in files and on command lines: NAME(key=value, ...); a model: BACKBONE+DECODER."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigError, shortened
from ..gateway import gateway
from .yaml_reader import load_value


@dataclass(frozen=True)
class Part:
    """A registered name with its arguments: Part("dpt", {"dim": 128}), written dpt(dim=128)."""

    name: str
    args: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        args = ", ".join(f"{key}={_format_value(value)}" for key, value in self.args.items())
        return f"{self.name}({args})" if args else self.name


@dataclass(frozen=True)
class Parts:
    """A new model, built by `AutoDenseModel.from_parts`; written BACKBONE+DECODER."""

    backbone: Part
    decoder: Part

    def __str__(self) -> str:
        return f"{self.backbone}+{self.decoder}"


@gateway
def parse_part(text: str | Part) -> Part:
    """Read NAME or NAME(key=value, ...). Values are YAML; commas inside brackets or quotes belong to the value.

    Raises:
        ConfigError: a missing name or bracket, text behind the last one, an argument that is not key=value or is
            repeated, a value that is not YAML.
    """
    if isinstance(text, Part):
        return text
    if not isinstance(text, str):
        raise ConfigError(f"expected NAME or NAME(key=value, ...); got {shortened(repr(text), 200)}")
    name, bracket, rest = text.strip().partition("(")
    problem = None
    if not re.fullmatch(r"[^\s()\[\]{},='\"][^\s()\[\]{}'\"]*", name.rstrip()):
        problem = "the name is missing" if not name.strip() else f"{name.strip()!r} is not a name"
    elif bracket and (not rest.endswith(")") or next(_outer(f"({rest}", ")", text), -1) != len(rest)):
        problem = "the bracket does not close at the end"
    if problem:
        raise ConfigError(f"{shortened(repr(text), 200)} is not NAME or NAME(key=value, ...): {problem}")
    inside, args = rest[:-1], {}
    for item in _split(inside, ",", text) if inside.strip() else ():
        key, equals, value = item.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_]\w*", key.strip()):
            raise ConfigError(f"{text!r}: {item.strip()!r} is not key=value")
        if key.strip() in args:
            raise ConfigError(f"{text!r}: {key.strip()} is given twice")
        args[key.strip()] = load_value(value, f"{text!r}: the value of {key.strip()}")
    return Part(name.strip(), args)


def split_parts(text: str) -> list[str]:
    """BACKBONE+DECODER as its two texts, cut at the last "+" outside brackets and quotes; one text without any."""
    plus = list(_outer(text, "+", text))
    return [text[: plus[-1]].strip(), text[plus[-1] + 1 :].strip()] if plus else [text.strip()]


def _split(text: str, separator: str, whole: str) -> Iterator[str]:
    start = 0
    for position in _outer(text, separator, whole):
        yield text[start:position]
        start = position + 1
    yield text[start:]


def _outer(text: str, characters: str, whole: str) -> Iterator[int]:
    """Positions of characters outside brackets and quotes; of a closing bracket, the one that ends an outermost pair.

    Raises:
        ConfigError: brackets or quotes that do not match; `whole` is the text to name.
    """
    closing: list[str] = []
    quote, before = "", ","  # a quote opens a value only at its start: don't is a word
    skip = False
    for position, character in enumerate(text):
        if skip:
            skip = False
        elif quote:
            if (character == "\\" and quote == '"') or text[position : position + 2] == quote * 2 == "''":
                skip = True
            elif character == quote:
                quote = ""
        elif character in "'\"" and before in "([{,=:":
            quote = character
        elif character in "([{":
            closing.append(")]}"["([{".index(character)])
        elif character in ")]}":
            if not closing or closing.pop() != character:
                raise ConfigError(f"{whole!r}: the brackets do not match at {text[: position + 1]!r}")
            if not closing and character in characters:
                yield position
        elif character in characters and not closing:
            yield position
        if not character.isspace():
            before = character
    if quote or closing:
        raise ConfigError(f"{whole!r}: {quote or closing[-1]} is missing")


def _format_value(value: Any, inside: bool = False) -> str:
    """Text that `parse_part` reads back as `value`; `inside` a list or mapping."""
    if isinstance(value, Mapping):
        pairs = (f"{_format_value(k, True)}: {_format_value(v, True)}" for k, v in value.items())
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_format_value(item, True) for item in value) + "]"
    if isinstance(value, str) and (inside or not _plain(value)):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, float) and value - value != 0:  # JSON cannot write these, YAML can
        return ".nan" if value != value else ".inf" if value > 0 else "-.inf"
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _plain(text: str) -> bool:
    """Whether a text between commas is read as itself."""
    try:
        return bool(parse_part(f"x(k={text})").args == {"k": text})
    except ConfigError:
        return False
