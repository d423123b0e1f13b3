"""The YAML of every file and command line: YAML 1.2, core schema (https://yaml.org/spec/1.2.2/#103-core-schema).

PyYAML reads YAML 1.1, in which `no` is false, `1e-3` text, `010` eight, `1:30` ninety and `2024-01-01` a date. Here
`true` and `false` are the only booleans, `1e-3` is a number, and everything else that is not a number is text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable
from typing import Any

import yaml

from ..errors import ConfigError

MAX_LETTERS = 1 << 16
MAX_DEPTH = 64  # lists and mappings inside one another
MAX_NODES = 100_000  # values; one behind an alias counts at every use

_QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"\\]|\\.)*\"")
_TAG = "tag:yaml.org,2002:"
_CORE = (  # tag, pattern, first characters
    ("null", r"~|null|Null|NULL|", [*"~nN", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
)


class _Loader(yaml.SafeLoader):
    """SafeLoader with the core schema; refuses repeated keys, deep nesting and aliases that grow without bound."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.constructor.ConstructorError(None, None, f"more than {MAX_DEPTH} levels of nesting", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_document(self, node: yaml.Node) -> Any:
        _count(node, {})
        return super().construct_document(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        if not isinstance(node, yaml.MappingNode):
            raise _error("expected a mapping", node)
        values: dict[Hashable, Any] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise _error("a list or a mapping as a key", key_node)
            if key in values:
                raise _error(f"the key {key!r} is repeated", key_node)
            values[key] = self.construct_object(value_node, deep=deep)
        return values

    def construct_yaml_bool(self, node: yaml.ScalarNode) -> bool:
        text = self.construct_scalar(node)
        if text.lower() not in ("true", "false"):
            raise _error(f"{text!r} is not true or false", node)
        return bool(text.lower() == "true")

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        text = self.construct_scalar(node)
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        try:
            return int(text if base == 10 else text[2:], base)
        except ValueError:  # Python reads no more than 4300 digits
            raise _error(f"{text[:20]} is not a whole number that can be read", node) from None

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        text = self.construct_scalar(node)
        try:
            value = float(text.replace(".", "", 1) if text.lstrip("+-")[:2].lower() in (".i", ".n") else text)
        except ValueError:
            raise _error(f"{text!r} is not a number", node) from None
        if math.isinf(value) and "inf" not in text.lower():
            raise _error(f"{text} is too large a number", node)
        return value


class _Dumper(yaml.SafeDumper):
    """Quotes text that either version of YAML would read as another type."""

    yaml_implicit_resolvers = dict(yaml.SafeDumper.yaml_implicit_resolvers)  # noqa: RUF012

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _name, _pattern, _first in _CORE:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"{_TAG}{_name}", re.compile(rf"(?:{_pattern})\Z"), _first)
_Loader.add_constructor(f"{_TAG}bool", _Loader.construct_yaml_bool)
_Loader.add_constructor(f"{_TAG}int", _Loader.construct_yaml_int)
_Loader.add_constructor(f"{_TAG}float", _Loader.construct_yaml_float)
for _name in ("timestamp", "binary", "set", "omap", "pairs"):  # types that JSON lacks
    _Loader.add_constructor(f"{_TAG}{_name}", _Loader.construct_undefined)  # type: ignore[type-var]


def load_yaml(text: str, where: str) -> Any:
    """The value of a document, None for an empty one; `where` names it in errors.

    Raises:
        ConfigError: not YAML, a repeated key, or too large; on one line, with line and column.
    """
    if len(text) > MAX_LETTERS:
        raise ConfigError(f"{where} has {len(text):,} letters; no more than {MAX_LETTERS:,} are read")
    loader = None
    try:
        loader = _Loader(text)
        return loader.get_single_data()
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not YAML: {_problem(error)}") from None
    finally:
        if loader is not None:
            loader.dispose()


def load_value(text: str, where: str) -> Any:
    """A YAML value on one line. A comment is refused: it would silently drop part of the value."""
    if re.search(r"(^|\s)#", _QUOTED.sub("", text)):
        raise ConfigError(f"{where}: a # after a space begins a comment; put the value in quotes")
    return load_yaml(text, where)


def dump_yaml(value: Any) -> str:
    """Text that `load_yaml` reads back as the same value; of JSON's types."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _count(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Number of values below a node, aliases expanded. 0 in `sizes` marks a node that is being counted."""
    size = sizes.get(id(node))
    if size == 0:
        raise _error("an alias inside the value that it names", node)
    if size is not None:
        return size
    sizes[id(node)] = 0
    children: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        children = [item for pair in node.value for item in pair]
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    total = 1 + sum(_count(child, sizes) for child in children)
    if total > MAX_NODES:
        raise _error(f"more than {MAX_NODES} values, with its aliases expanded", node)
    sizes[id(node)] = total
    return total


def _error(problem: str, node: yaml.Node) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _problem(error: yaml.YAMLError) -> str:
    """The problem and its position, on one line; PyYAML's own message spans several."""
    problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
    if problem is None:
        return " ".join(str(error).split())
    return str(problem) + (f" (line {mark.line + 1}, column {mark.column + 1})" if mark is not None else "")
