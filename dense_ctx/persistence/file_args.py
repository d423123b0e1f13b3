"""Which arguments of a part may come from an untrusted file: a model's config.json, a context's probe.json.

A part lists them in `file_args`, each with a rule; null always passes. Rules, as Python values:

    bool                    true or false
    range(1, 4097)          a whole number
    (0.0, 1.0)              a number from the first to the second
    frozenset({"a", "b"})   one of these texts
    re.compile("[a-z]+")    a text that matches as a whole
    [rule]                  at most 256 entries, each by the rule
    {"key": rule}           a mapping with these keys, or some of them
    dict                    a mapping, whose parts are checked when they are built
    WEIGHTS                 "pretrained", or a file of this machine, from a folder of this machine

A part without `file_args` takes true, false, and numbers and lists of numbers up to 4096 in size; no text.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

from ..errors import ConfigError
from ..plugins import registry
from .links import may_read_paths

LONGEST = 256
LAYERS = [range(-LONGEST, LONGEST)]
CHANNELS = range(1, 16_385)
SEEDS = range(1 << 63)
TEXT = re.compile(r"[\w./+-]{1,200}")


def WEIGHTS(value: Any) -> bool:
    """The source of weights: the part's own, or a local file, which a Hub repository may not name."""
    far = isinstance(value, str) and ("://" in value or value.startswith(("\\\\", "//")))
    return value == "pretrained" or (isinstance(value, str) and may_read_paths() and not far and len(value) < 4096)


def is_permitted(rule: Any, value: Any) -> bool:
    """Whether a value from a file follows a rule."""
    if value is None:
        return True
    if isinstance(value, bool) or rule is bool:
        return rule is bool and isinstance(value, bool)
    if isinstance(rule, range):
        return isinstance(value, int) and value in rule
    if isinstance(rule, tuple):
        return isinstance(value, (int, float)) and rule[0] <= value <= rule[1]
    if isinstance(rule, frozenset):
        return isinstance(value, str) and value in rule
    if isinstance(rule, re.Pattern):
        return isinstance(value, str) and rule.fullmatch(value) is not None
    if isinstance(rule, list):
        several = isinstance(value, (list, tuple)) and len(value) <= LONGEST
        return several and all(item is not None and is_permitted(rule[0], item) for item in value)
    if isinstance(rule, dict):
        return isinstance(value, dict) and all(k in rule and is_permitted(rule[k], v) for k, v in value.items())
    return isinstance(value, dict) if rule is dict else bool(rule(value))


def _is_simple(value: Any) -> bool:
    return is_permitted(bool, value) or is_permitted((-4096, 4096), value) or is_permitted([(-4096, 4096)], value)


_MEANT = {
    "probe": "load_context(FOLDER, model, {key}=...), Predictor.from_pretrained(FOLDER, probe={{'{key}': ...}}), or on "
    "the command line --model 'FOLDER(probe={{{key}: ...}})'",
    "objective": "an objective is built from your own configuration alone",
}


def check_file_args(kind: str, name: str, args: Mapping[str, Any], where: object) -> None:
    """Refuse an argument of a registered part that may not come from a file.

    Args:
        where: the file or folder, for the error.

    Raises:
        ConfigError: the argument is not in the part's `file_args`, or breaks its rule; names both.
    """
    if len(name) > 4096 or name.count(":") > 16:
        raise ConfigError(f"{where}: {kind} {name[:100]}... is no name: {len(name):,} letters")
    entry, _ = registry().get(kind, name)
    rules = getattr(registry().resolve(entry), "file_args", None)
    for key, value in args.items():
        if _is_simple(value) if rules is None else key in rules and is_permitted(rules[key], value):
            continue
        allowed = "bounded numbers and lists of them" if rules is None else ", ".join(sorted(rules)) or "none"
        meant = _MEANT.get(kind, f"AutoDenseModel.from_parts({name[:60]!r}, ...)").format(key=key[:60])
        raise ConfigError(
            f"{where}: {kind} {name[:100]} does not take {key[:60]}={value!r:.100} from a file (it takes {allowed}"
            f"{', within their ranges' if rules and key in rules else ''}). If you trust it and mean it, give it in "
            f"your own code: {meant}"
        )


def file_args_problem(target: Any) -> str | None:
    """What is wrong with the rules of a part, for contract checks: no such argument, or a default that breaks one."""
    rules: Mapping[str, Any] = getattr(target, "file_args", None) or {}
    parameters = inspect.signature(target).parameters
    for key, rule in rules.items():
        item = parameters.get(key)
        default = None if item is None or item.default is item.empty else item.default
        default = asdict(default) if is_dataclass(default) else default  # type: ignore[arg-type]
        if item is None and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return f"file_args names {key}, which it does not take"
        if not is_permitted(rule, default):
            return f"file_args refuses the default of {key}, {default!r}"
    return None
