"""What a pickle may hold: classes beside tensors where its user allows them, in containers that end."""

import re
from typing import Any

# they keep values, and no argument makes them run code (numpy.ndarray may be given a buffer of pointers: it is none)
DATA_CLASSES = re.compile(
    r"argparse\.Namespace|types\.SimpleNamespace|collections\.(OrderedDict|Counter|deque)|uuid\.UUID|decimal\.Decimal"
    r"|pathlib\.(Pure)?(Posix|Windows)?Path|datetime\.(date|time|datetime|timedelta|timezone)|fractions\.Fraction"
    r"|numpy\.dtype|numpy\.dtypes\.(Bool|U?Int|Float|Complex)\d*DType|numpy\._?core\.multiarray\.scalar"
)


def require_tree(loaded: Any) -> Any:
    """`loaded`; raises ValueError where a walk would not end: a container in itself, too many levels or entries."""
    parts, visits = [(loaded, 0)], 0
    while parts:
        value, depth = parts.pop()
        if isinstance(value, (dict, list, tuple)):
            parts += [(part, depth + 1) for part in (value.values() if isinstance(value, dict) else value)]
            visits += len(value)
        if depth > 50 or visits > 2_000_000:
            raise ValueError("it holds a container inside itself, or more than 50 levels or 2,000,000 entries")
    return loaded
