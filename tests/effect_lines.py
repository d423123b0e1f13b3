"""What a line of the tables of arguments, effect_table.py and effect_table_more.py, says of an argument."""

from dataclasses import dataclass, field

BOTH = ("segmentation", "regression")
LABELS, VALUES = ("segmentation",), ("regression",)


@dataclass(frozen=True)
class Changes:
    """Another value, with which an outcome changes. A plain value in a table stands for Changes(value).

    base: arguments beside which it counts; both runs have them. tasks: of a probe: those under which it counts; under
    the others it is refused by name, unless `idle` says why it need not be.
    """

    value: object
    base: dict = field(default_factory=dict)
    tasks: tuple = BOTH
    idle: str = ""


@dataclass(frozen=True)
class Refused:
    """A value that the part refuses with a ConfigError or InputError that names the argument or has these words."""

    value: object
    words: str = ""


@dataclass(frozen=True)
class Same:
    """No outcome changes, or none can be had here: why, and the name of the test where the argument counts."""

    reason: str


def beside(value, tasks=BOTH, idle="", **base):
    """Changes, with `base` as keywords."""
    return Changes(value, base, tasks, idle)


def line(value):
    """An entry of a table as a line."""
    return value if isinstance(value, Changes | Refused | Same) else Changes(value)
