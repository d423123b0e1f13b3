"""Classes that a pickle may hold beside tensors where its user allows it."""

import re

# they keep values, and no argument makes them run code (numpy.ndarray may be given a buffer of pointers: it is none)
DATA_CLASSES = re.compile(
    r"argparse\.Namespace|types\.SimpleNamespace|collections\.(OrderedDict|Counter|deque)|uuid\.UUID|decimal\.Decimal"
    r"|pathlib\.(Pure)?(Posix|Windows)?Path|datetime\.(date|time|datetime|timedelta|timezone)|fractions\.Fraction"
    r"|numpy\.dtype|numpy\.dtypes\.(Bool|U?Int|Float|Complex)\d*DType|numpy\._?core\.multiarray\.scalar"
)
